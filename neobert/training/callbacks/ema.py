"""Exponential moving average of the weights (``trainer.ema_decay``).

Lightning's callback does the work: evaluations run with the averages, and the weights of a
checkpoint are the averages, so that tools and exports use them; the trained weights are in its
state.
"""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from neobert.config.trainer import TrainerConfig


class EmaWeights(WeightAveraging):
    """After every optimizer step ``average = decay * average + (1 - decay) * weights``.

    The first step's weights are the first average. Buffers are copied, not averaged.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The averages were made before the model was on its device."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing yet: a checkpoint of the last step needs the trained weights too."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The averages become the model's weights; later evaluations swap nothing."""
        super().on_train_end(trainer, pl_module)
        self._average_model = None


def ema_callbacks(settings: TrainerConfig) -> list[Callback]:
    """The callback if ``trainer.ema_decay`` is set."""
    return [] if settings.ema_decay is None else [EmaWeights(settings.ema_decay)]
