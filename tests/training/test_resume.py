import json
from pathlib import Path

import pytest

from neobert.config.trainer import TrainerConfig
from neobert.errors import ConfigError
from neobert.training.checkpoint import FolderCheckpointIO
from neobert.training.resume import check_same_run, realign, resume_point

SAVED = {"seed": 0, "dataset.max_seq_length": 128, "scheduler.betas": [1, 2]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "fingerprint.json").write_text(json.dumps(SAVED))
    return tmp_path / "0"


def test_the_same_settings_may_resume(checkpoint: Path) -> None:
    check_same_run(checkpoint, {**SAVED, "scheduler.betas": (1, 2)}, [])


@pytest.mark.proves("trainer.accept_changes")
def test_every_changed_setting_is_named_with_both_values_and_the_override(
    checkpoint: Path,
) -> None:
    here = {**SAVED, "seed": 1, "dataset.max_seq_length": 256}
    with pytest.raises(ConfigError) as error:
        check_same_run(checkpoint, here, [])
    message = str(error.value)
    assert "seed differs" in message
    assert "0 -> 1" in message
    assert "dataset.max_seq_length differs" in message
    assert "128 -> 256" in message
    assert "'trainer.accept_changes=[dataset.max_seq_length,seed]'" in message


def test_accepted_changes_pass_and_the_others_do_not(checkpoint: Path) -> None:
    here = {**SAVED, "seed": 1, "dataset.max_seq_length": 256}
    with pytest.raises(ConfigError, match=r"dataset\.max_seq_length") as error:
        check_same_run(checkpoint, here, ["seed"])
    assert "seed differs" not in str(error.value)
    check_same_run(checkpoint, here, ["all"])


def test_a_setting_that_only_one_side_has_is_a_change(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.shards"):
        check_same_run(checkpoint, {**SAVED, "dataset.shards": 4}, [])


def test_skipped_steps_are_told_and_not_refused(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="neobert"):
        check_same_run(checkpoint, {**SAVED, "dataset.skip_steps": ["1200-1300"]}, [])
    assert "dataset.skip_steps changed on resume" in caplog.text


def test_only_what_was_accepted_is_called_so(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = {**SAVED, "seed": 1, "scheduler.betas": [3]}
    with caplog.at_level("WARNING", logger="neobert"):
        check_same_run(checkpoint, here, ["seed"], is_branch=True)
        check_same_run(checkpoint, {**SAVED, "seed": 2}, ["all"])
    assert caplog.messages == [
        "scheduler.betas differs from the trunk's: [1, 2] -> [3]",
        "seed differs from the trunk's, as accepted: 0 -> 1",
        "seed changed on resume, as accepted: 0 -> 2",
    ]


@pytest.mark.parametrize(
    ("saved", "here", "step", "refused"),
    [
        ([], ["1200-1300"], 1200, False),
        ([], ["1200-1300"], 1201, True),
        (["10-19"], ["10-19", "1200-1300"], 1190, False),  # whose last step had the data of 1199
        (["10-19"], ["10-19", "1200-1300"], 1191, True),
        (["10-19"], [], 10, False),
        (["10-19"], [], 11, True),
    ],
)
def test_a_span_that_is_behind_cannot_be_changed(
    tmp_path: Path, saved: list[str], here: list[str], step: int, refused: bool
) -> None:
    checkpoint = tmp_path / str(step)
    checkpoint.mkdir()
    (checkpoint / "fingerprint.json").write_text(json.dumps({"dataset.skip_steps": saved}))
    if refused:
        with pytest.raises(ConfigError, match=r"dataset\.skip_steps differs"):
            check_same_run(checkpoint, {"dataset.skip_steps": here}, [])
    check_same_run(checkpoint, {"dataset.skip_steps": here}, ["all"] if refused else [])


def test_a_renamed_checkpoint_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    FolderCheckpointIO(lambda folder: None).save_checkpoint({"state_dict": {}}, tmp_path / "final")
    settings = TrainerConfig(resume_from_checkpoint=str(tmp_path / "final"))
    with pytest.raises(ConfigError, match="called by its step"):
        resume_point(settings)


@pytest.mark.parametrize("selector", [None, "", "false", "none"])
def test_without_a_selector_a_run_starts_anew(selector: str | None) -> None:
    assert resume_point(TrainerConfig(resume_from_checkpoint=selector)) is None


def test_finished_steps_are_counted_in_the_new_micro_batches() -> None:
    def progress(ready: int, completed: int) -> dict[str, dict[str, int]]:
        counts = {"ready": ready, "started": ready, "processed": ready, "completed": completed}
        return {"total": dict(counts), "current": dict(counts)}

    checkpoint = {
        "accumulation": 2,
        "loops": {"fit_loop": {"epoch_loop.batch_progress": progress(20, 19)}},
    }
    realign(checkpoint, 3)
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"] == progress(30, 29)
