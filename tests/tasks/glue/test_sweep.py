"""A sweep does not run a finished job again, whatever its number was."""

from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.config.store import save_config
from neobert.multirun import finished_run

WORDS = ["task=glue", "glue.task_name=rte", "seed=1", "glue.allow_random_weights=true"]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep whose job 4 was ``WORDS``, finished."""
    folder = tmp_path / "4"
    folder.mkdir()
    save_config(compose_config([*WORDS, f"trainer.output_dir={folder}"]), folder / "config.yaml")
    (folder / "summary.json").write_text('{"task": "glue", "objective": 0.5}')
    return tmp_path


def test_a_finished_job_is_found_under_any_number(sweep: Path) -> None:
    assert finished_run(sweep / "0", WORDS) == sweep / "4"
    resuming = [*WORDS, "trainer.resume_from_checkpoint=latest"]
    assert finished_run(sweep / "0", resuming) == sweep / "4"


@pytest.mark.parametrize("change", ["seed=2", "optimizer.lr=3e-5", "glue.task_name=mrpc"])
def test_other_settings_are_another_job(sweep: Path, change: str) -> None:
    words = [word for word in WORDS if word.partition("=")[0] != change.partition("=")[0]]
    assert finished_run(sweep / "4", [*words, change]) is None


def test_an_unfinished_job_is_run_again(sweep: Path) -> None:
    (sweep / "4/summary.json").unlink()
    assert finished_run(sweep / "4", WORDS) is None


def test_settings_of_another_version_are_no_match(sweep: Path) -> None:
    (sweep / "4/config.yaml").write_text("unknown_key: 1\n")
    assert finished_run(sweep / "0", WORDS) is None
