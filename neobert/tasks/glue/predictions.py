"""Files of predictions: the GLUE submission format for test sets, more for evaluation sets."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neobert.files import replacing
from neobert.tasks.glue.metrics import has_labels
from neobert.tasks.glue.module import Predictions
from neobert.tasks.glue.tasks import GlueTask


def write_submission(
    task: GlueTask,
    names: NDArray[np.int64],
    part: Predictions,
    path: Path,
    thresholds: Tensor | None = None,
) -> None:
    """``index<TAB>prediction``, as gluebenchmark.com takes it.

    Classes by name in the tasks whose files have names (MNLI, QNLI, RTE, AX), else by number;
    regressions with three decimals, within the bounds of the labels.
    """
    texts = predicted_texts(task, part.scores, thresholds)
    rows = [[str(name), text] for name, text in zip(names.tolist(), texts, strict=True)]
    _write(["index", "prediction"], rows, path)


def write_examples(
    task: GlueTask,
    names: NDArray[np.int64],
    part: Predictions,
    path: Path,
    thresholds: Tensor | None = None,
) -> None:
    """Label, prediction and the probability of each class, example by example.

    Several labels of a text have commas between them.
    """
    chosen = predicted_texts(task, part.scores, thresholds)
    labels = [_label_text(task, value) for value in part.labels.tolist()]
    header = ["index", "label", "prediction"]
    columns = [[str(name) for name in names.tolist()], labels, chosen]
    if not task.regression:
        shares = part.scores.sigmoid() if task.multi_label else part.scores.softmax(1)
        header += [f"p({name})" for name in task.labels]
        columns += [[f"{share:.6f}" for share in column.tolist()] for column in shares.T]
    _write(header, [list(row) for row in zip(*columns, strict=True)], path)


def predicted_texts(task: GlueTask, scores: Tensor, thresholds: Tensor | None = None) -> list[str]:
    """What the model says of each example, as the files write it."""
    if task.multi_label:
        return [_label_text(task, row) for row in has_labels(scores, thresholds).tolist()]
    if task.regression:
        low, high = task.label_range or (-torch.inf, torch.inf)
        return [f"{value:.3f}" for value in scores[:, 0].clamp(low, high).tolist()]
    return [_label_text(task, number) for number in scores.argmax(1).tolist()]


def _label_text(task: GlueTask, value: float | Sequence[float]) -> str:
    if isinstance(value, Sequence):
        return ",".join(name for name, has in zip(task.labels, value, strict=True) if has)
    if task.regression:
        return f"{value:.3f}"
    return task.labels[int(value)] if task.predicts_names else str(int(value))


def _write(header: list[str], rows: list[list[str]], path: Path) -> None:
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
