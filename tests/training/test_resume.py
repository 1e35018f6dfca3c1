import json
from pathlib import Path

import pytest

from neobert.config.checks import ConfigError
from neobert.training.resume import check_same_run

SAVED = {"seed": 0, "dataset.max_seq_length": 128, "scheduler.betas": [1, 2]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "fingerprint.json").write_text(json.dumps(SAVED))
    return tmp_path


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
    assert "trainer.accept_changes=[seed]" in message


def test_accepted_changes_pass_and_the_others_do_not(checkpoint: Path) -> None:
    here = {**SAVED, "seed": 1, "dataset.max_seq_length": 256}
    with pytest.raises(ConfigError, match=r"dataset\.max_seq_length") as error:
        check_same_run(checkpoint, here, ["seed"])
    assert "seed differs" not in str(error.value)
    check_same_run(checkpoint, here, ["all"])


def test_a_setting_that_only_one_side_has_is_a_change(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.shards"):
        check_same_run(checkpoint, {**SAVED, "dataset.shards": 4}, [])
