"""A sweep does not run a finished job again, whatever its number was."""

from dataclasses import asdict
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from neobert.config.compose import SettingsLoader
from neobert.config.group_files import conf_dir
from neobert.files import write_json
from neobert.sweep_jobs import SWEEP, PreparedJob, prepare_job

WORDS = ["task=glue", "glue.task_name=rte", "seed=1", "glue.allow_random_weights=true"]


def prepared(sweep: Path, number: int, words: list[str]) -> PreparedJob:
    """The job ``number`` of a sweep in ``sweep``, as a launcher of Hydra prepares it."""
    from hydra._internal.utils import create_config_search_path
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode

    setup_globals()
    loader = SettingsLoader(create_config_search_path(str(conf_dir())))
    folder = [f"hydra.sweep.dir={sweep}", "hydra.mode=MULTIRUN"]
    master = loader.load_configuration("config", [*words, *folder], RunMode.MULTIRUN)
    settings = loader.load_sweep_config(master, words)
    OmegaConf.set_struct(settings, False)
    settings.hydra.job.num = number
    settings.hydra.runtime.output_dir = str(sweep / str(number))
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = settings
    try:
        return prepare_job(settings)
    finally:
        HydraConfig.instance().cfg = before


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep whose job 4 was ``WORDS``, finished."""
    job = prepared(tmp_path, 4, WORDS)
    job.job.code = 0
    write_json({key: getattr(job.job, key) for key in job.job.__slots__}, job.record)
    folder = Path(job.job.folder)
    folder.mkdir()
    (folder / "summary.json").write_text('{"task": "glue", "objective": 0.5}')
    return tmp_path


def test_a_finished_job_is_found_under_any_number(sweep: Path) -> None:
    for words in (WORDS, [*WORDS, "trainer.resume_from_checkpoint=latest"]):
        again = prepared(sweep, 0, words)
        assert again.job.code == 0
        assert again.job.folder == str(sweep / "4")


def test_a_job_of_the_same_command_runs_again_only_if_it_is_requeued(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWEEP, "1")
    interrupted = prepared(sweep, 4, WORDS)
    interrupted.job.code = 75
    write_json(asdict(interrupted.job), interrupted.record)
    requeued, repeated = prepared(sweep, 4, WORDS).job, prepared(sweep, 5, WORDS).job
    assert (requeued.number, requeued.code, requeued.repeats) == (4, None, [])
    assert (repeated.number, repeated.code, repeated.repeats) == (4, 75, [5])


@pytest.mark.parametrize("change", ["seed=2", "optimizer.lr=3e-5", "glue.task_name=mrpc"])
def test_other_settings_are_another_job(sweep: Path, change: str) -> None:
    words = [word for word in WORDS if word.partition("=")[0] != change.partition("=")[0]]
    job = prepared(sweep, 4, [*words, change])
    assert job.job.code is None
    assert job.job.folder == str(sweep / "4-2")  # 4 is the first sweep's


@pytest.mark.parametrize("text", [None, "", "[]", "{", "null"])
def test_an_unfinished_job_is_run_again_in_its_folder(sweep: Path, text: str | None) -> None:
    summary = sweep / "4/summary.json"
    summary.unlink() if text is None else summary.write_text(text)
    job = prepared(sweep, 0, WORDS)
    assert job.job.code is None
    assert job.job.folder == str(sweep / "4")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"number": 1, "other": 2}'])
def test_a_damaged_record_is_none(sweep: Path, text: str) -> None:
    (record,) = sweep.glob(".job-*.json")
    record.write_text(text)
    assert prepared(sweep, 0, WORDS).job.code is None
