"""One step of fine-tuning: score the documents, compare with their labels, sum.

The loss is exact over the examples of the optimizer step, however they are split into micro-batches
and ranks: see :mod:`neobert.tasks.pretraining.module`.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neobert.batch import PackedBatch, PaddedBatch
from neobert.config.optimizer import OptimizerConfig
from neobert.losses.classification import (
    classification_loss,
    multi_label_loss,
    regression_loss,
)
from neobert.optim.schedule import Schedule
from neobert.tasks.glue.labelled_batch import LabelledBatch
from neobert.tasks.glue.metrics import best_thresholds, compute, official_score
from neobert.tasks.glue.tasks import GlueTask
from neobert.training.logger import log_metrics
from neobert.training.module import OptimizedModule

GROUP = 8
"""Documents of a padded batch that a CPU computes together: fewer leave less padding, but each
group costs a gradient of all weights."""


@dataclass(frozen=True, slots=True)
class GlueSettings:
    """What the module needs beside model and optimizer."""

    task: GlueTask
    num_heads: int
    accumulation: int
    log_accuracy: bool = False
    log_grad_norm: bool = False


class Predictions(NamedTuple):
    """What the model says of examples; a tuple, since Lightning moves what a step returns."""

    scores: Tensor
    """(N, C): C scores of each of N examples."""

    labels: Tensor
    rows: Tensor


class GlueModule(OptimizedModule):
    """A classifier of documents that learns a task."""

    def __init__(
        self,
        model: nn.Module,
        optimizer_config: OptimizerConfig,
        schedule: Schedule,
        settings: GlueSettings,
    ) -> None:
        super().__init__(optimizer_config, schedule, settings.num_heads, settings.log_grad_norm)
        self.model = model
        self.settings = settings
        self.thresholds: Tensor | None = None
        """Of several labels a text, (C,): probabilities from which on a text has them."""

        self._found: dict[int, list[Predictions]] = {}

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> dict[str, object]:
        scores = self.scores(batch)
        loss_sum = self._loss(scores, batch.labels)
        parts = self.settings.accumulation * self.trainer.world_size
        sums: dict[str, Tensor | float] = {
            "loss": loss_sum.detach(),
            "examples": batch.num_examples,
            "tokens": batch.inputs.num_tokens if batch.num_examples else 0,
        }
        if self.settings.log_accuracy and batch.labels.dtype == torch.int64:
            sums["correct"] = (scores.argmax(1) == batch.labels).sum()
        return {"loss": loss_sum * (parts / max(1, batch.num_examples_in_step)), "sums": sums}

    def train_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of a logging window from its sums over all ranks."""
        examples = max(1.0, sums["examples"])
        metrics = {"train/loss": sums["loss"] / examples}
        if "correct" in sums:
            metrics["train/accuracy"] = sums["correct"] / examples
        return metrics | self.gradient_norm()

    def on_validation_epoch_start(self) -> None:
        self._found = {}

    def validation_step(
        self, batch: LabelledBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._found.setdefault(dataloader_idx, []).append(self.predict_step(batch))

    def on_validation_epoch_end(self) -> None:
        parts = [gather_predictions(self._found[number]) for number in sorted(self._found)]
        self._found = {}
        metrics = self.evaluate(parts)
        self.log_dict(metrics, logger=False)  # for early stopping and the best model
        log_metrics(self.trainer, metrics)

    def evaluate(self, parts: list[Predictions]) -> dict[str, float]:
        """``eval/*`` of the task's evaluation sets, and their official score.

        Tunes the thresholds of several labels a text.
        """
        task = self.settings.task
        metrics: dict[str, float] = {}
        if task.multi_label:
            self.thresholds = best_thresholds(parts[0].scores, parts[0].labels)
        for end, part in zip(task.validation.values(), parts, strict=True):
            metrics |= {f"{name}{end}": value for name, value in self._metrics(part).items()}
        metrics["score"] = official_score(task, metrics)
        return {f"eval/{name}": value for name, value in metrics.items()}

    def test_metrics(self, part: Predictions) -> dict[str, float]:
        """Metrics and score of a test set, with the thresholds of the evaluation data."""
        metrics = self._metrics(part)
        task = self.settings.task  # MNLI's score is of two sets
        own = replace(task, score=tuple(name for name in task.score if name in metrics))
        return {**metrics, "score": official_score(own, metrics)}

    def _metrics(self, part: Predictions) -> dict[str, float]:
        metrics = compute(self.settings.task, part.scores, part.labels, self.thresholds)
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
            scores = torch.cat([self._padded(group) for _, group in groups])[rows.argsort()]
        else:
            scores = self._padded(inputs)
        return scores[: batch.num_examples]

    def _padded(self, inputs: PaddedBatch) -> Tensor:
        types = inputs.token_type_ids
        segments = {} if types is None else {"token_type_ids": types}
        output = self.model(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **segments
        )
        return output.logits

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        if self.settings.task.regression:
            return regression_loss(scores, labels)
        if self.settings.task.multi_label:
            return multi_label_loss(scores, labels)
        return classification_loss(scores, labels)


def gather_predictions(batches: list[Predictions]) -> Predictions:
    """The predictions of all ranks, each example once, in the order of the rows."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        everywhere: list[list[Predictions] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, batches)
        batches = [
            prediction for part in cast(list[list[Predictions]], everywhere) for prediction in part
        ]
    rows = torch.cat([batch.rows for batch in batches])
    order = rows.argsort()
    return Predictions(
        scores=torch.cat([batch.scores for batch in batches])[order],
        labels=torch.cat([batch.labels for batch in batches])[order],
        rows=rows[order],
    )
