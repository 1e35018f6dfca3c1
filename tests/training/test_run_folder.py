from pathlib import Path

import pytest

from neobert.config.root import Config
from neobert.config.trainer import TrainerConfig
from neobert.errors import ConfigError
from neobert.training.run_folder import label_of_run, open_run_folder, run_of_checkpoint


def open_at(path: Path | str, seed: int = 0) -> Path:
    config = Config(seed=seed, trainer=TrainerConfig(output_dir=str(path)))
    return open_run_folder(config, resuming=False).path


@pytest.mark.proves("trainer.overwrite_output_dir")
def test_runs_below_the_folder_and_files_of_the_users_stay_where_they_are(tmp_path: Path) -> None:
    open_at(tmp_path / "output" / "quickstart")
    (tmp_path / "output" / "notes.txt").write_text("mine")
    open_at(tmp_path / "output", seed=1)  # holds no run itself, so far
    assert not (tmp_path / "output.old-1").exists()
    (tmp_path / "output" / "metrics.csv").write_text("first")
    (tmp_path / "output" / "checkpoints" / "3").mkdir(parents=True)
    predictions = {"predictions_test.tsv", "predictions_test.json", "nbest_validation.json"}
    for name in predictions:
        (tmp_path / "output" / name).write_text("first")
    open_at(tmp_path / "output", seed=2)
    old = {path.name for path in (tmp_path / "output.old-1").iterdir()}
    assert old == {"config.yaml", "metrics.csv", "checkpoints", *predictions}
    assert "seed: 1" in (tmp_path / "output.old-1" / "config.yaml").read_text()
    assert "seed: 2" in (tmp_path / "output" / "config.yaml").read_text()
    assert (tmp_path / "output" / "quickstart" / "config.yaml").is_file()
    assert (tmp_path / "output" / "notes.txt").read_text() == "mine"


def test_the_folder_may_be_the_one_that_commands_are_given_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    open_at(".", seed=1)
    open_at(".", seed=2)
    assert "seed: 1" in (tmp_path / "here.old-1" / "config.yaml").read_text()
    assert "seed: 2" in (tmp_path / "here" / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_place_where_no_folder_can_be_is_one_clear_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ConfigError, match=r"trainer\.output_dir="):
        open_at(tmp_path / name)
    assert (tmp_path / "file").read_text() == "a file"


def test_a_checkpoint_is_named_by_its_run_and_its_step(tmp_path: Path) -> None:
    checkpoint = tmp_path / "quickstart" / "checkpoints" / "830"
    assert label_of_run(checkpoint) == "quickstart-830"
    run = run_of_checkpoint(checkpoint)
    assert run is not None
    assert run.path == tmp_path / "quickstart"
    assert label_of_run(tmp_path / "published") == "published"
    assert run_of_checkpoint(tmp_path / "published") is None
