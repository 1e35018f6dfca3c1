"""One step of a task that fine-tunes on documents: exact loss, evaluation on all ranks."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from neobert.config.root import Config
from neobert.optim.schedule import Schedule
from neobert.training.logger import log_metrics
from neobert.training.module import OptimizedModule
from neobert.training.ranks import gather_lists


class FineTuningModule(OptimizedModule):
    """An encoder with a head; the loss is the mean over the targets of the optimizer step."""

    def __init__(
        self, model: nn.Module, num_heads: int, schedule: Schedule, config: Config
    ) -> None:
        super().__init__(config.optimizer, schedule, num_heads, config.trainer.log_grad_norm)
        self.model = model
        self._predictions: list[Any] = []

    @abstractmethod
    def loss_sum(self, batch: Any) -> tuple[Tensor, int]:  # noqa: ANN401
        """Sum of the losses of a batch, and the number of targets in it."""

    @abstractmethod
    def validation_metrics(self, predictions: Sequence[Any]) -> dict[str, float]:
        """``eval/*`` from what ``predict_step`` returned for the validation split on all ranks."""

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, object]:  # noqa: ANN401
        loss, targets = self.loss_sum(batch)
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        sums = {"loss": loss.detach(), "targets": targets, "tokens": batch.inputs.num_tokens}
        return {"loss": loss * (parts / max(1, batch.num_targets_in_step)), "sums": sums}

    def train_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of a logging window from its sums over all ranks."""
        return {"train/loss": sums["loss"] / max(1.0, sums["targets"]), **self.gradient_norm()}

    def on_validation_epoch_start(self) -> None:
        self._predictions = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        self._predictions.append(self.predict_step(batch))

    def on_validation_epoch_end(self) -> None:
        metrics = self.validation_metrics(gather_lists(self._predictions))
        self.log_dict(metrics, logger=False)  # for early stopping and the best model
        log_metrics(self.trainer, metrics)
