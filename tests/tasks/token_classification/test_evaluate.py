"""``neobert evaluate`` of a tagger."""

from pathlib import Path

import pytest

import neobert
from tests.tasks.token_classification.conftest import Train


def test_an_evaluation_gives_the_numbers_of_the_run(tag: Train) -> None:
    run = neobert.Run(tag("trainer.num_train_epochs=1", "trainer.save_strategy=epoch"))
    metrics = neobert.evaluate(run)
    assert metrics == pytest.approx(run.summary["after"])
    assert 0 < metrics["eval/score"] <= 1
    whole = neobert.evaluate(run, ["dataset.eval_split=test"])
    assert whole["eval/f1"] == pytest.approx(metrics["eval/f1_test"])
    neobert.evaluate(run)
    for name in predictions(run.folder):
        assert (run.folder / "evaluations/25" / name).read_text() == (run.folder / name).read_text()


def predictions(folder: Path) -> list[str]:
    names = [path.name for path in folder.glob("predictions*")]
    assert names
    return names
