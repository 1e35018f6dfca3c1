"""``trainer.early_stopping``: ends a run that no longer improves, and keeps it ended."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from neobert.console import get_logger

log = get_logger(__name__)


class StopEarly(EarlyStopping):
    """Lightning's, which would train on when a run that it has ended is resumed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.wait_count < self.patience:
            return
        trainer.should_stop = True
        log.warning(
            "early stopping ended this run at step %d: %d evaluations without a better %s; "
            "a larger trainer.early_stopping continues it",
            *(trainer.global_step, self.wait_count, self.monitor),
        )

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        # The patience of the settings counts, which a resumed run may raise.
        super().load_state_dict({**state_dict, "patience": self.patience})
