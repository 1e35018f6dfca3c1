"""``neobert evaluate`` of an embedding model."""

import pytest

import neobert


@pytest.mark.parametrize("step", [2, 4])
def test_an_evaluation_gives_the_numbers_of_the_run(settings, step: int) -> None:
    run = neobert.train(settings("trainer.eval_steps=2"))
    metrics = neobert.evaluate(run, checkpoint=step)
    names = [name for name in run.metrics.column_names if name.startswith("eval/")]
    row = run.metrics["step"].to_pylist().index(step)
    assert metrics == pytest.approx({name: run.metrics[name][row].as_py() for name in names})
    assert 0 < metrics["eval/mrr_at_10"] < 1
