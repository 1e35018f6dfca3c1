"""Has ``metrics.csv`` written once per step, when all callbacks have logged their numbers."""

from lightning.pytorch import Callback, LightningModule, Trainer

from neobert.training.callbacks.checkpointer import evaluates_after
from neobert.training.metrics_file import MetricsFile


class SaveLogs(Callback):
    """Comes after the callbacks that log and before the one that saves checkpoints."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if not evaluates_after(trainer, batch_idx):  # else its numbers go into the same row
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.save()
