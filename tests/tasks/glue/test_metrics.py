"""The metrics are those of scikit-learn and scipy; a score is the mean of its metrics."""

import numpy as np
import pytest
import torch

from neobert.config.trainer import TrainerConfig
from neobert.errors import ConfigError
from neobert.tasks.glue.metrics import METRICS, compute, logged_names, official_score
from neobert.tasks.glue.tasks import TASKS
from neobert.training.fine_tuning import check_best_metric

sklearn = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")


def draw(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    shape = (57,)
    return tuple(torch.randint(0, classes, shape, generator=generator) for _ in range(2))


@pytest.mark.parametrize(
    ("name", "classes", "reference"),
    [
        ("accuracy", 3, lambda p, y: sklearn.accuracy_score(y, p)),
        ("f1", 2, lambda p, y: sklearn.f1_score(y, p)),
        ("f1", 4, lambda p, y: sklearn.f1_score(y, p, average="macro")),
        ("macro_f1", 2, lambda p, y: sklearn.f1_score(y, p, average="macro")),
        ("matthews_correlation", 2, lambda p, y: sklearn.matthews_corrcoef(y, p)),
        ("matthews_correlation", 3, lambda p, y: sklearn.matthews_corrcoef(y, p)),
    ],
)
def test_a_metric_of_classes_is_scikit_learns(name: str, classes: int, reference: object) -> None:
    predicted, labels = draw(classes)
    expected = reference(predicted.numpy(), labels.numpy())
    assert float(METRICS[name](predicted, labels, classes)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "reference"), [("pearson", stats.pearsonr), ("spearmanr", stats.spearmanr)]
)
def test_a_correlation_is_scipys_with_ties(name: str, reference: object) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 6, 80) / 1.0
    predicted = labels + generator.normal(size=80)
    found = METRICS[name](torch.from_numpy(predicted), torch.from_numpy(labels), 1)
    assert float(found) == pytest.approx(reference(predicted, labels)[0], abs=1e-6)


@pytest.mark.parametrize("name", ["pearson", "spearmanr"])
def test_a_constant_prediction_correlates_with_nothing(name: str) -> None:
    scores = torch.ones(5, 1)
    assert compute(TASKS["stsb"], scores, torch.arange(5.0))[name] == 0


def test_one_class_for_all_has_a_matthews_correlation_of_zero() -> None:
    scores = torch.tensor([[1.0, 0.0]] * 4)
    labels = torch.tensor([0, 1, 0, 1])
    assert compute(TASKS["cola"], scores, labels) == {"matthews_correlation": 0.0}


def test_a_score_is_the_mean_of_its_metrics() -> None:
    assert official_score(TASKS["mrpc"], {"accuracy": 0.8, "f1": 0.6}) == pytest.approx(0.7)
    matched = {"accuracy": 0.8, "accuracy_mm": 0.7}
    assert official_score(TASKS["mnli"], matched) == pytest.approx(0.75)


def test_a_score_is_never_made_of_half_its_metrics() -> None:
    with pytest.raises(KeyError, match="accuracy_mm"):
        official_score(TASKS["mnli"], {"accuracy": 0.8})


@pytest.mark.proves("trainer.metric_for_best_model")
def test_a_best_metric_must_be_one_of_the_tasks() -> None:
    for name in (None, "f1", "eval_f1", "eval/accuracy", "loss", "score"):
        check_best_metric(TrainerConfig(metric_for_best_model=name), logged_names(TASKS["mrpc"]))
    with pytest.raises(ConfigError, match="metric_for_best_model=f1: the task has accuracy, loss"):
        check_best_metric(TrainerConfig(metric_for_best_model="f1"), logged_names(TASKS["sst2"]))
