"""``neobert evaluate`` of a fine-tuned model."""

import json
from pathlib import Path

import pytest

import neobert
from neobert.errors import ConfigError


def test_an_evaluation_gives_the_numbers_of_the_run(
    settings, sst2: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    start = f"glue.pretrained_model_path={encoder_folder}"
    run = neobert.train(
        settings(start, "trainer.num_train_epochs=1", "trainer.save_strategy=epoch")
    )
    metrics = neobert.evaluate(run)
    assert metrics == pytest.approx(run.summary["after"])
    assert 0 < metrics["eval/accuracy"] <= 1
    folder = run.folder / "evaluations/6"
    assert json.loads((folder / "evaluation.json").read_text())["metrics"] == metrics
    assert not (folder / "checkpoints").exists()
    predictions = {path.name for path in folder.glob("predictions*")}
    assert predictions == {path.name for path in run.folder.glob("predictions*")} != set()
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".claimed"}
    neobert.evaluate(run, ["trainer.per_device_eval_batch_size=3"])
    moved = run.folder / "evaluations/6.old-1"
    assert {path.name: path.read_bytes() for path in moved.iterdir()} == first


def test_a_run_without_a_checkpoint_is_refused(
    settings, sst2: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    start = f"glue.pretrained_model_path={encoder_folder}"
    run = neobert.train(settings(start, "trainer.max_steps=1"))  # task=glue saves none by default
    said = r"run has no checkpoint: it was trained with trainer\.save_strategy=no; set best, epoch"
    with pytest.raises(ConfigError, match=said):
        neobert.evaluate(run)
    with pytest.raises(ConfigError, match=said):
        run.export(tmp_path / "exported")
    (run.folder / "summary.json").unlink()  # cut short: there may be checkpoints yet
    with pytest.raises(ConfigError, match=r"there are config\.yaml, .*: name the folder of a run"):
        run.export(tmp_path / "exported")
