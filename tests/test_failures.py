"""How a program ends: what it says, and the exit code by which a scheduler can tell."""

import errno
import logging
import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

import neobert
from neobert.errors import ConfigError, RunError
from neobert.failures import ending_on_sigterm, report_failure


def full_disk() -> BaseException:
    wrapped = RuntimeError("unexpected pos 576 vs 534")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return wrapped


def exit_after_ctrl_c() -> BaseException:
    """What Lightning makes of Ctrl-C."""
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904
    except SystemExit as stop:
        return stop


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("seed=x: must be a number"), 2, "error: seed=x"),
        (ConfigError("has \ufeffa, b\rc\x1b[2J"), 2, r"error: has \ufeffa, b\rc\x1b[2J"),
        (RunError("STS12 failed"), 1, "error: STS12 failed"),
        (FloatingPointError("the loss is nan"), 1, "error: the loss is nan"),
        (full_disk(), 1, "make room, then resume with trainer.resume_from_checkpoint=latest"),
        (Exception("No space left on device (os error 28)"), 1, "make room"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            1,
            "num_workers=0",
        ),
        (BrokenProcessPool("a child process terminated"), 1, "dataset.num_proc=1"),
        (MemoryError(), 1, "out of memory"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 1, "/a/b: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (exit_after_ctrl_c(), 130, "interrupted"),
    ],
)
def test_each_kind_of_end_has_its_exit_code_and_one_line(
    error: BaseException, code: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="neobert"):
        assert report_failure(error) == code
    assert len(caplog.messages) == 1
    assert line in caplog.text


@pytest.mark.parametrize("error", [TypeError("a bug"), SystemExit(3), OSError("unnamed")])
def test_what_is_nobodys_fault_but_ours_keeps_its_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        report_failure(error)
    assert caught.value is error


def test_sigterm_before_training_cleans_up_and_ends_as_interrupted(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, ending_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is before


TOOLS = ["embed", "mlm_predict", "pseudo_perplexity", "average", "inspect_data", "prepare"]
TOOLS += ["glue_report", "mteb_report", "launch"]


@pytest.mark.parametrize("name", [*(f"tools.{name}" for name in TOOLS), "export.__main__"])
def test_every_program_has_the_boundary(name: str) -> None:
    text = (Path(neobert.__file__).parent / f"{name.replace('.', '/')}.py").read_text()
    assert text.rstrip().endswith('if __name__ == "__main__":\n    run_program(main)')


@pytest.mark.parametrize(
    ("raised", "code"),
    [("KeyboardInterrupt()", 130), ("ConfigError('x')", 2), ("OSError(30, 'r', '/x')", 1)],
)
def test_what_a_program_raises_is_reported(raised: str, code: int) -> None:
    script = (
        "from neobert.console import show_messages\nfrom neobert.errors import ConfigError\n"
        "from neobert.failures import run_program\nshow_messages()\n"
        f"def main():\n    raise {raised}\nrun_program(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_closes_the_output_is_no_traceback() -> None:
    script = (
        "from neobert.failures import run_program\ndef main():\n"
        "    while True:\n        print('line', flush=True)\nrun_program(main)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 1
