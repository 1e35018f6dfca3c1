"""One step of a task that fine-tunes on documents: exact loss, evaluation on all ranks.

The loss is exact over the targets of the optimizer step, however they are split into micro-batches
and ranks: see :mod:`neobert.tasks.pretraining.module`.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from neobert.batch import PaddedBatch
from neobert.optim.schedule import Schedule
from neobert.training.callbacks.train_metrics import Sums
from neobert.training.documents import DocumentDataModule
from neobert.training.logger import log_metrics
from neobert.training.module import OptimizedModule
from neobert.training.ranks import gather_lists


class FineTuningModule(OptimizedModule):
    """An encoder with a head; the loss is the mean over the targets of the optimizer step."""

    targets: ClassVar[str] = "targets"
    """What the sums of a logging window, which checkpoints keep, call the number of targets."""

    data: DocumentDataModule[Any, Any]

    def __init__(
        self,
        model: nn.Module,
        num_heads: int,
        schedule: Schedule,
        data: DocumentDataModule[Any, Any],
    ) -> None:
        config = data.config
        super().__init__(config.optimizer, schedule, num_heads, config.trainer.log_grad_norm)
        self.model, self.data = model, data
        self._predictions: dict[int, list[Any]] = defaultdict(list)

    @abstractmethod
    def batch_sums(self, batch: Any) -> Sums:  # noqa: ANN401
        """Over a batch: ``loss``, the sum of the losses, the number of :attr:`targets`, and what
        else the task logs."""

    @abstractmethod
    def validation_metrics(self, predictions: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """``eval/*`` of the evaluation sets from what ``predict_step`` returned for each split on
        all ranks."""

    @abstractmethod
    def test_metrics(self, split: str, predictions: Sequence[Any]) -> dict[str, float]:
        """``eval/*`` of another split; nothing where it has no labels."""

    def hub_output(self, inputs: PaddedBatch) -> Any:  # noqa: ANN401
        """What a model of transformers says of a padded batch."""
        types = inputs.token_type_ids
        segments = {} if types is None else {"token_type_ids": types}
        return self.model(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **segments
        )

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, object]:  # noqa: ANN401
        sums = self.batch_sums(batch)
        loss = sums["loss"]
        assert isinstance(loss, Tensor)
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return {
            "loss": loss * (parts / max(1, batch.num_targets_in_step)),
            "sums": {**sums, "loss": loss.detach(), "tokens": batch.inputs.num_tokens},
        }

    def train_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of a logging window from its sums over all ranks."""
        return {"train/loss": sums["loss"] / max(1.0, sums[self.targets]), **self.gradient_norm()}

    def on_validation_epoch_start(self) -> None:
        self._predictions.clear()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ANN401
        self._predictions[dataloader_idx].append(self.predict_step(batch))

    def on_validation_epoch_end(self) -> None:
        splits = enumerate(self.data.validation_splits)
        predictions = {split: gather_lists(self._predictions[number]) for number, split in splits}
        metrics = self.validation_metrics(predictions)
        self.log_dict(metrics, logger=False)  # for early stopping and the best model
        log_metrics(self.trainer, metrics)
