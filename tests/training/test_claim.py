import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from neobert.config.root import Config
from neobert.config.trainer import TrainerConfig
from neobert.errors import ConfigError
from neobert.training.claim import claim
from neobert.training.resume import resume_point
from neobert.training.run_folder import open_run_folder

HOLDER = """
import os, sys, time
from pathlib import Path
from neobert.training.claim import claim

claim(Path(sys.argv[1]))
child = os.fork()  # a loader process, which must not hold the claim on its own
if child == 0:
    time.sleep(30)
    os._exit(0)
print(child, flush=True)
time.sleep(30)
"""


@pytest.fixture
def other_run(tmp_path: Path) -> "tuple[Path, subprocess.Popen[str], int]":
    """A folder with a file in it, and another process that has claimed it."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.csv").write_text("of the other run")
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield folder, process, child
    process.kill()
    os.kill(child, signal.SIGKILL)  # it holds the pipe too
    process.communicate()


@pytest.mark.parametrize("resuming", [False, True])
def test_a_folder_that_another_run_writes_into_is_refused_and_left_alone(
    other_run: "tuple[Path, subprocess.Popen[str], int]", resuming: bool
) -> None:
    folder, _, _ = other_run
    config = Config(trainer=TrainerConfig(output_dir=str(folder)))
    with pytest.raises(ConfigError, match=r"trainer\.output_dir=.*another run is writing"):
        open_run_folder(config, resuming)
    assert (folder / "metrics.csv").read_text() == "of the other run"


def test_a_checkpoint_that_another_run_is_writing_is_no_leftover(
    other_run: "tuple[Path, subprocess.Popen[str], int]",
) -> None:
    folder, _, _ = other_run
    writing = folder / "checkpoints" / ".incomplete-20-1"
    writing.mkdir(parents=True)
    settings = TrainerConfig(output_dir=str(folder), resume_from_checkpoint="latest")
    with pytest.raises(ConfigError, match="another run is writing"):
        resume_point(settings)
    assert writing.is_dir()


def test_a_killed_run_holds_nothing_although_its_loader_lives_on(
    other_run: "tuple[Path, subprocess.Popen[str], int]",
) -> None:
    folder, process, _ = other_run
    with pytest.raises(ConfigError, match="another run is writing"):
        claim(folder)
    process.kill()
    process.wait()
    claim(folder)  # is no error any more


def test_a_process_may_claim_its_folder_again_also_after_it_was_moved(tmp_path: Path) -> None:
    config = Config(trainer=TrainerConfig(output_dir=str(tmp_path / "run")))
    open_run_folder(config, resuming=False)
    (tmp_path / "run" / "metrics.csv").write_text("first")
    open_run_folder(config, resuming=True)
    open_run_folder(config, resuming=False)
    assert (tmp_path / "run.old-1" / "metrics.csv").read_text() == "first"
    assert not (tmp_path / "run" / "metrics.csv").exists()
