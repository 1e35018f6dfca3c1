"""``neobert evaluate`` of a model that answers questions."""

from pathlib import Path

import pytest

import neobert
from tests.tasks.question_answering.conftest import Answered, questions, write_splits


def test_an_evaluation_gives_the_numbers_of_the_run(answer: Answered) -> None:
    run = neobert.Run(answer("trainer.num_train_epochs=1", "trainer.save_strategy=epoch"))
    metrics = neobert.evaluate(run)
    assert metrics == pytest.approx(run.summary["after"])
    assert 0 <= metrics["eval/f1"] <= 100
    (evaluation,) = (run.folder / "evaluations").iterdir()
    written = [path.name for path in evaluation.iterdir()]
    assert {path.name for path in run.folder.glob("predictions*")} <= set(written)


def test_the_test_set_can_be_the_evaluation_data(answer: Answered, tmp_path: Path) -> None:
    splits = {"train": questions(40, 0), "validation": questions(5, 2), "test": questions(9, 4)}
    folder = write_splits(tmp_path / "with-test", **splits)
    run = neobert.Run(
        answer(
            f"dataset.path={folder}", "trainer.num_train_epochs=1", "trainer.save_strategy=epoch"
        )
    )
    whole = neobert.evaluate(run, ["dataset.eval_split=test"])
    assert whole["eval/f1"] == pytest.approx(run.summary["after"]["eval/f1_test"])
    assert whole["eval/loss"] == pytest.approx(run.summary["after"]["eval/loss_test"])
    assert whole["eval/loss"] != run.summary["after"]["eval/loss"]
