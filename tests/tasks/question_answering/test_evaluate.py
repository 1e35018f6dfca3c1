"""``neobert evaluate`` of a model that answers questions."""

import pytest

import neobert
from tests.tasks.question_answering.conftest import Answered


def test_an_evaluation_gives_the_numbers_of_the_run(answer: Answered) -> None:
    run = neobert.Run(answer("trainer.num_train_epochs=1", "trainer.save_strategy=epoch"))
    metrics = neobert.evaluate(run)
    assert metrics == pytest.approx(run.summary["after"])
    assert 0 <= metrics["eval/f1"] <= 100
    (evaluation,) = (run.folder / "evaluations").iterdir()
    written = [path.name for path in evaluation.iterdir()]
    assert {path.name for path in run.folder.glob("predictions*")} <= set(written)
