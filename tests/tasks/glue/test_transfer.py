"""Which checkpoint of the source run a transfer takes; a whole transfer: ``test_run.py``."""

import json
from pathlib import Path

import pytest
import torch

from neobert.errors import ConfigError
from neobert.model.weight_files import WEIGHTS
from neobert.tasks.glue.transfer import source_run
from neobert.training.checkpoint import FolderCheckpointIO
from tests.tasks.glue.conftest import Settings

BEST = {4: 4, 8: 4, 12: 12}
"""Step of a checkpoint -> the best step until then."""


def source(sweep: Path, best: int | None, recorded: dict[int, int | None]) -> Path:
    """A finished run of MNLI; ``best`` is that of its summary, ``recorded`` as in ``BEST``."""
    checkpoints = sweep / "0/checkpoints"
    checkpoints.mkdir(parents=True)
    for step, known in recorded.items():
        state = {
            "state_dict": {"model.weight": torch.full((2,), float(step))},
            "callbacks": {"Checkpointer": {"best_value": 1.0, "best_step": known}},
        }
        FolderCheckpointIO(lambda folder: None).save_checkpoint(state, checkpoints / str(step))
    summary = {"task": "glue", "task_name": "mnli", "score": 0.9, "best": {"step": best}}
    (sweep / "0/summary.json").write_text(json.dumps(summary))
    return checkpoints


def taken(settings: Settings, sweep: Path) -> str:
    return source_run(settings(f"trainer.output_dir={sweep / '1'}"), "mnli").checkpoint.name


@pytest.mark.parametrize(
    ("best", "recorded", "step"),
    [
        (4, {4: 4, 8: 4}, "4"),
        (8, {4: 4, 8: 4}, "8"),  # found by the evaluation after training
        (4, {8: 4, 12: 4}, "12"),  # the best was not kept
        (None, {4: None, 8: None}, "8"),
    ],
)
def test_the_best_checkpoint_is_taken_else_the_newest(
    settings: Settings,
    tmp_path: Path,
    best: int | None,
    recorded: dict[int, int | None],
    step: str,
) -> None:
    source(tmp_path, best, recorded)
    assert taken(settings, tmp_path) == step


@pytest.mark.parametrize(
    ("best", "recorded", "step"),
    [
        (12, BEST, "4"),
        (4, BEST, "4"),
        (12, {4: None, 8: None, 12: 12}, "8"),
        (None, {4: None, 8: None, 12: None}, "8"),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over(
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    best: int | None,
    recorded: dict[int, int | None],
    step: str,
) -> None:
    checkpoints = source(tmp_path, best, recorded)
    (checkpoints / "12" / WEIGHTS).write_bytes(b"")
    assert taken(settings, tmp_path) == step
    assert f"{checkpoints / '12'} is damaged" in caplog.text
    assert f"using {checkpoints / '8'} instead" in caplog.text


def test_a_run_whose_checkpoints_are_all_damaged_is_told(
    settings: Settings, tmp_path: Path
) -> None:
    checkpoints = source(tmp_path, 4, {4: 4})
    (checkpoints / "4" / WEIGHTS).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"glue\.transfer_from_task=.*all checkpoints are dam"):
        taken(settings, tmp_path)
