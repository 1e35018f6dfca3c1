"""One step of classification or regression: score the documents, compare with their labels, sum."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neobert.batch import PackedBatch
from neobert.losses.classification import (
    classification_loss,
    multi_label_loss,
    regression_loss,
)
from neobert.optim.schedule import Schedule
from neobert.tasks.glue.data import GlueDataModule
from neobert.tasks.glue.labelled_batch import LabelledBatch
from neobert.tasks.glue.metrics import best_thresholds, compute, official_score
from neobert.training.callbacks.train_metrics import Sums
from neobert.training.fine_tuning_module import FineTuningModule

GROUP = 8
"""Documents of a padded batch that a CPU computes together: fewer leave less padding, but each
group costs a gradient of all weights."""


class Predictions(NamedTuple):
    """What the model says of examples; a tuple, since Lightning moves what a step returns."""

    scores: Tensor
    """(N, C): C scores of each of N examples."""

    labels: Tensor
    rows: Tensor


class GlueModule(FineTuningModule):
    """A classifier of documents that learns a task."""

    targets = "examples"
    data: GlueDataModule

    def __init__(
        self, model: nn.Module, num_heads: int, schedule: Schedule, data: GlueDataModule
    ) -> None:
        super().__init__(model, num_heads, schedule, data)
        self.task = data.task
        self.log_accuracy = data.config.trainer.log_train_accuracy
        self.thresholds: Tensor | None = None
        """Of several labels a text, (C,): probabilities from which on a text has them."""

    def batch_sums(self, batch: LabelledBatch) -> Sums:
        scores = self.scores(batch)
        sums: dict[str, Tensor | float] = {
            "loss": self._loss(scores, batch.labels),
            "examples": batch.num_examples,
        }
        if self.log_accuracy and batch.labels.dtype == torch.int64:
            sums["correct"] = (scores.argmax(1) == batch.labels).sum()
        return sums

    def train_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """With the accuracy, if it is to be logged."""
        metrics = super().train_metrics(sums)
        if "correct" in sums:
            metrics["train/accuracy"] = sums["correct"] / max(1.0, sums["examples"])
        return metrics

    def validation_metrics(
        self, predictions: Mapping[str, Sequence[Predictions]]
    ) -> dict[str, float]:
        """With the official score. Tunes the thresholds of several labels a text.

        Nothing where ``trainer.eval_strategy`` wants no evaluation.
        """
        if not self.data.has_validation:
            return {}
        parts = {split: ordered_by_row(predictions[split]) for split in self.data.validation_splits}
        if self.task.multi_label:
            first = parts[self.data.validation_splits[0]]
            self.thresholds = best_thresholds(first.scores, first.labels)
        metrics: dict[str, float] = {}
        for split, part in parts.items():
            end = split.removeprefix("validation")
            metrics |= {f"{name}{end}": value for name, value in self._metrics(part).items()}
        metrics["score"] = official_score(self.task, metrics)
        return {f"eval/{name}": value for name, value in metrics.items()}

    def test_metrics(self, split: str, predictions: Sequence[Predictions]) -> dict[str, float]:
        """With the thresholds of the evaluation data; of the examples that have labels."""
        labels = self.data.documents[split].labels
        is_labelled = torch.from_numpy(np.isfinite(labels).reshape(len(labels), -1)).all(1)
        if not is_labelled.any():
            return {}
        metrics = self._metrics(
            Predictions(*(part[is_labelled] for part in ordered_by_row(predictions)))
        )
        score = tuple(name for name in self.task.score if name in metrics)  # MNLI's is of two sets
        metrics["score"] = official_score(replace(self.task, score=score), metrics)
        return {f"eval/{name}": value for name, value in metrics.items()}

    def _metrics(self, part: Predictions) -> dict[str, float]:
        metrics = compute(self.task, part.scores, part.labels, self.thresholds)
        return {**metrics, "loss": float(self._loss(part.scores, part.labels)) / len(part.labels)}

    @torch.no_grad()
    def predict_step(
        self, batch: LabelledBatch, batch_idx: int = 0, dataloader_idx: int = 0
    ) -> Predictions:
        scores = self.scores(batch).float()
        return Predictions(scores.cpu(), batch.labels.cpu(), batch.rows.cpu())

    def scores(self, batch: LabelledBatch) -> Tensor:
        """(S, C): the scores of the labelled documents of ``batch``."""
        inputs = batch.inputs
        if isinstance(inputs, PackedBatch):
            scores = self.model(inputs)
        elif inputs.input_ids.device.type == "cpu":
            # Fewer tokens are less time here; a GPU would rather have one large batch.
            groups = inputs.by_length(GROUP)
            rows = torch.cat([rows for rows, _ in groups])
            outputs = [self.hub_output(group).logits for _, group in groups]
            scores = torch.cat(outputs)[rows.argsort()]
        else:
            scores = self.hub_output(inputs).logits
        return scores[: batch.num_examples]

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        if self.task.regression:
            return regression_loss(scores, labels)
        if self.task.multi_label:
            return multi_label_loss(scores, labels)
        return classification_loss(scores, labels)


def ordered_by_row(batches: Sequence[Predictions]) -> Predictions:
    """The predictions of a split in the order of its rows."""
    order = torch.cat([batch.rows for batch in batches]).argsort()
    return Predictions(*(torch.cat(parts)[order] for parts in zip(*batches, strict=True)))
