"""The metrics of the tasks, computed by torchmetrics on all predictions at once.

Letters: N examples, C classes.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.functional import (
    accuracy,
    f1_score,
    matthews_corrcoef,
    pearson_corrcoef,
    spearman_corrcoef,
)
from torchmetrics.functional.classification import (
    multilabel_average_precision,
    multilabel_f1_score,
    multilabel_precision_recall_curve,
)

from neobert.tasks.glue.tasks import GlueTask

Metric = Callable[[Tensor, Tensor, int], Tensor]
"""Predictions (N,), labels (N,), number of classes → a scalar."""


def _f1(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """F1 of class 1 where there are two, else the mean over the classes."""
    return (
        f1_score(predicted, labels, "binary")
        if classes == 2
        else _macro(predicted, labels, classes)
    )


def _macro(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    return f1_score(predicted, labels, "multiclass", num_classes=classes, average="macro")


METRICS: dict[str, Metric] = {
    "accuracy": lambda predicted, labels, classes: accuracy(
        predicted, labels, "multiclass", num_classes=classes, average="micro"
    ),
    "f1": _f1,
    "macro_f1": _macro,
    "matthews_correlation": lambda predicted, labels, classes: matthews_corrcoef(
        predicted, labels, "multiclass", num_classes=classes
    ),
    "pearson": lambda predicted, labels, classes: _correlation(pearson_corrcoef, predicted, labels),
    "spearmanr": lambda predicted, labels, classes: _correlation(
        spearman_corrcoef, predicted, labels
    ),
}


HALF = 0.5
"""Threshold of a label that has not been tuned."""


def has_labels(scores: Tensor, thresholds: Tensor | None) -> Tensor:
    """Which labels texts have by their ``scores``, (N, C), and ``thresholds`` of probability."""
    return scores.sigmoid() >= (HALF if thresholds is None else thresholds)


def best_thresholds(scores: Tensor, labels: Tensor) -> Tensor:
    """The thresholds (C,) of the highest F1 of each class, for ``scores`` and ``labels`` (N, C).

    Each lies halfway between two probabilities. A class without a text keeps 0.5.
    """
    probabilities, classes = scores.double().sigmoid(), labels.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics' notes on classes without a text
        curves = multilabel_precision_recall_curve(probabilities, labels.long(), classes)
    best = torch.full((classes,), HALF, dtype=torch.float64)
    for number, (precision, recall, steps) in enumerate(zip(*curves, strict=True)):
        if labels[:, number].any():
            f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
            place = int(f1[:-1].argmax())  # the last point has no threshold
            below = steps[place - 1] if place else torch.zeros(())
            best[number] = (steps[place] + below) / 2
    return best


def _of_labels(
    task: GlueTask, scores: Tensor, labels: Tensor, predicted: Tensor
) -> dict[str, float]:
    """Metrics of several labels a text; ``predicted`` are 0 or 1."""
    labels, predicted, classes = labels.long(), predicted.long(), labels.shape[1]
    metrics: dict[str, Callable[[], Tensor]] = {
        "micro_f1": lambda: multilabel_f1_score(predicted, labels, classes, average="micro"),
        "macro_f1": lambda: multilabel_f1_score(predicted, labels, classes, average="macro"),
        "average_precision": lambda: multilabel_average_precision(
            scores.double().sigmoid(), labels, classes
        ).nan_to_num(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without a text have no average precision
        return {name: float(metrics[name]()) for name in task.metrics}


def compute(
    task: GlueTask, scores: Tensor, labels: Tensor, thresholds: Tensor | None = None
) -> dict[str, float]:
    """The task's metrics from the model's ``scores`` (N, C) and the labels: (N,), or (N, C) with
    the ``thresholds`` (C,) of several labels a text.
    """
    if task.multi_label:
        return _of_labels(task, scores, labels, has_labels(scores, thresholds))
    predicted = scores[:, 0].double() if task.regression else scores.argmax(1)
    if not task.regression:
        labels = labels.long()
    classes = max(2, scores.shape[1])
    return {
        name: float(METRICS[name](predicted, labels.to(predicted.dtype), classes))
        for name in task.metrics
    }


def official_score(task: GlueTask, metrics: dict[str, float]) -> float:
    """The mean of the metrics that the task's score is made of; all must be there."""
    names = task.score or task.metrics
    return sum(metrics[name] for name in names) / len(names)


def logged_names(task: GlueTask) -> list[str]:
    """The evaluation metrics of a task, without ``eval/``."""
    own = [f"{name}{end}" for end in task.validation.values() for name in (*task.metrics, "loss")]
    return [*own, "score"]


def _correlation(
    correlation: Callable[[Tensor, Tensor], Tensor], predicted: Tensor, labels: Tensor
) -> Tensor:
    """0 where predictions or labels are all the same, for which it is not defined."""
    if len(labels) < 2 or bool((predicted == predicted[0]).all() | (labels == labels[0]).all()):
        return torch.zeros(())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics' note on small variances
        return correlation(predicted, labels).nan_to_num()
