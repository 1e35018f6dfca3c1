"""Processes of one machine verify the checkpoint that they resume from once."""

import multiprocessing
import os
from multiprocessing.context import SpawnContext
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch

from neobert.config.trainer import TrainerConfig
from neobert.training import manifest
from neobert.training.checkpoint import FolderCheckpointIO
from neobert.training.resume import resume_point

CONTEXT: SpawnContext = multiprocessing.get_context("spawn")


def resume(run: Path, before: Barrier | None = None) -> str:
    """What a rank of two does; every file that it hashes becomes a line of ``<run>/hashed``."""
    real = manifest.sha256

    def noted(path: Path) -> str:
        with (run / "hashed").open("a") as file:
            file.write(f"{os.getpid()} {path.name}\n")
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "sha256", noted)
        if before is not None:
            before.wait(60)
        settings = TrainerConfig(output_dir=str(run), resume_from_checkpoint="latest", devices=2)
        checkpoint = resume_point(settings)
    assert checkpoint is not None
    (run / f"choice-{os.getpid()}").write_text(checkpoint.name)
    return checkpoint.name


def rank(run: Path, before: Barrier | None = None) -> None:
    os.environ["LOCAL_RANK"] = "1"  # no claim: one of the others has the folder
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    rank_zero_only.rank = 1
    resume(run, before)


def hashed(run: Path) -> list[tuple[str, str]]:
    lines = (run / "hashed").read_text().splitlines() if (run / "hashed").exists() else []
    return [(process, name) for process, name in map(str.split, lines)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for step in (1, 2):
        state = {"state_dict": {"model.weight": torch.ones(3)}, "optimizer_states": []}
        FolderCheckpointIO(lambda folder: None).save_checkpoint(
            state, tmp_path / "run" / "checkpoints" / str(step)
        )
    newest = tmp_path / "run" / "checkpoints" / "2" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x01")  # the same size
    return tmp_path / "run"


def test_of_processes_that_start_together_one_verifies(run: Path) -> None:
    before = CONTEXT.Barrier(2)
    ranks = [CONTEXT.Process(target=rank, args=(run, before)) for _ in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    assert {file.read_text() for file in run.glob("choice-*")} == {"1"}
    assert len(list(run.glob("choice-*"))) == 2
    assert len({process for process, _ in hashed(run)}) == 1
    names = [name for _, name in hashed(run)]
    assert sorted(names) == sorted(["model.safetensors", "trainer_state.pt"] * 2)


def test_processes_that_the_first_one_starts_verify_nothing(run: Path) -> None:
    assert resume(run) == "1"
    child = CONTEXT.Process(target=rank, args=(run,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert (run / f"choice-{child.pid}").read_text() == "1"
    assert {process for process, _ in hashed(run)} == {str(os.getpid())}


def test_a_later_start_verifies_again(run: Path) -> None:
    assert resume(run) == "1"
    verified = len(hashed(run))
    assert resume(run) == "1"
    assert len(hashed(run)) == 2 * verified
