import math

import pytest

from neobert.config.trainer import TrainerConfig
from neobert.training.callbacks.checkpointer import Best, save_plan


def test_a_score_of_zero_or_below_can_be_the_best() -> None:
    best = Best("eval/matthews", greater_is_better=True)
    assert best.improved_by(-0.5)
    best.value = -0.5
    assert best.improved_by(0.0)
    best.value = 0.0
    assert not best.improved_by(0.0)
    assert not best.improved_by(math.nan)


def test_a_loss_improves_downwards() -> None:
    best = Best("eval/loss", greater_is_better=False, value=2.0)
    assert best.improved_by(1.9)
    assert not best.improved_by(2.1)


@pytest.mark.proves("trainer.save_strategy", "trainer.save_steps", "trainer.save_model")
@pytest.mark.parametrize(
    ("settings", "every", "at_best", "at_end", "at_interrupt"),
    [
        ({"save_strategy": "steps", "save_steps": 5}, 5, False, True, True),
        ({"save_strategy": "epoch"}, 100, False, True, True),
        ({"save_strategy": "best"}, None, True, False, True),
        ({"save_strategy": "no"}, None, False, False, False),
        ({"save_model": False}, None, False, False, False),
        ({"save_steps": 5, "load_best_model_at_end": True}, 5, True, True, True),
    ],
)
def test_save_strategies(
    settings: dict, every: int | None, at_best: bool, at_end: bool, at_interrupt: bool
) -> None:
    plan = save_plan(TrainerConfig(**settings), steps_per_epoch=100)
    assert (plan.every, plan.at_best, plan.at_end, plan.at_interrupt) == (
        every,
        at_best,
        at_end,
        at_interrupt,
    )


@pytest.mark.parametrize(
    ("settings", "metric", "greater"),
    [
        ({}, None, True),
        ({"load_best_model_at_end": True}, "eval/loss", False),
        ({"early_stopping": 2}, "eval/loss", False),
        ({"metric_for_best_model": "accuracy"}, "eval/accuracy", True),
        ({"metric_for_best_model": "eval_loss", "greater_is_better": False}, "eval/loss", False),
        ({"metric_for_best_model": "eval/f1"}, "eval/f1", True),
    ],
)
def test_the_metric_of_the_best_model(settings: dict, metric: str | None, greater: bool) -> None:
    best = save_plan(TrainerConfig(**settings), steps_per_epoch=1).best
    assert (best.metric, best.greater_is_better) == (metric, greater)


@pytest.mark.proves("trainer.save_total_limit")
@pytest.mark.parametrize(("limit", "keep"), [(3, 3), (1, 1), (0, None), (None, None)])
def test_retention_of_zero_or_null_keeps_all(limit: int | None, keep: int | None) -> None:
    assert save_plan(TrainerConfig(save_total_limit=limit), 1).keep == keep
