"""Exponential moving average of the weights (``trainer.ema_decay``).

Each rank averages the weights that its optimizer holds: its shard under FSDP2 and ZeRO, else all.
Evaluations run with the averages, and the weights of a checkpoint are the averages, so that tools
and exports use them; the trained weights are in its state.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from neobert.training.strategy_sharded import ShardedStrategy

TRAINED = "current_model_state"
"""Key of the trained weights in a checkpoint, whose weights are the averages."""


class EmaWeights(Callback):
    """After every optimizer step ``average = decay * average + (1 - decay) * weights``.

    The first step's weights are the first average. Buffers are not averaged.
    """

    def __init__(self, decay: float) -> None:
        self._move = cast(
            Callable[[list[Tensor], list[Tensor], int], None], get_ema_multi_avg_fn(decay)
        )
        self._averages: list[Tensor] = []
        """Like the shards; empty before the first step and after training."""

        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A checkpoint may have been read before the model was on its device."""
        weights = _shards(trainer, pl_module)
        pairs = zip(self._averages, weights, strict=False)
        self._averages = [average.to(weight.device) for average, weight in pairs]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._last_step:
            return  # amid an accumulation
        self._last_step = trainer.global_step
        weights = _shards(trainer, pl_module)
        if self._averages:
            self._move(self._averages, weights, self._last_step)
        else:
            self._averages = [weight.clone() for weight in weights]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The averages become the model's weights, when the last checkpoint has both."""
        self._swap(trainer, pl_module)
        self._averages = []

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        if not self._averages:
            return
        checkpoint[TRAINED] = checkpoint["state_dict"]
        self._swap(trainer, pl_module)
        averages = trainer.strategy.lightning_module_state_dict()
        if not isinstance(trainer.strategy, ShardedStrategy):  # theirs are copies already
            averages = _copies(averages)
        self._swap(trainer, pl_module)
        checkpoint["state_dict"] = averages

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """The averages have been loaded as weights."""
        self._averages = []
        if TRAINED in checkpoint:
            self._averages = [weight.clone() for weight in _shards(trainer, pl_module)]
            trainer.strategy.load_model_state_dict({"state_dict": checkpoint[TRAINED]})

    def state_dict(self) -> dict[str, object]:
        return {"latest_update_step": self._last_step}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self._last_step = cast(int, state_dict["latest_update_step"])

    def _swap(self, trainer: Trainer, module: LightningModule) -> None:
        """Exchange weights and averages."""
        if not self._averages:
            return
        weights = [weight.clone() for weight in _shards(trainer, module)]
        _write(trainer, module, self._averages)
        self._averages = weights


def _shards(trainer: Trainer, module: LightningModule) -> list[Tensor]:
    if isinstance(trainer.strategy, ShardedStrategy):
        return trainer.strategy.weight_shards()
    return [parameter.detach() for parameter in module.parameters()]


def _write(trainer: Trainer, module: LightningModule, shards: Sequence[Tensor]) -> None:
    if isinstance(trainer.strategy, ShardedStrategy):
        trainer.strategy.write_weight_shards(shards)
        return
    for weight, value in zip(_shards(trainer, module), shards, strict=True):
        weight.copy_(value)


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors, one for all names of the same tensor."""
    copies: dict[int, Tensor] = {}
    for tensor in state.values():
        if tensor.data_ptr() not in copies:
            copies[tensor.data_ptr()] = tensor.detach().clone()
    return {name: copies[tensor.data_ptr()] for name, tensor in state.items()}
