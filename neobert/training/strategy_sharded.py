"""What the strategies share that shard a model over the ranks: FSDP2 and ZeRO.

Their checkpoints are those of every other strategy, whole tensors gathered on the first rank: a run
may resume under another strategy, stage or number of processes.
"""

from abc import abstractmethod
from collections.abc import Sequence

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from neobert.training.ranks import WatchedRanks

Plain = dict[str, object]


class ShardedStrategy(WatchedRanks):
    """A strategy that shards the weights which the optimizer updates."""

    # As for replicas: the first rank writes whole tensors, every rank reads them.
    save_checkpoint = Strategy.save_checkpoint
    load_checkpoint = Strategy.load_checkpoint
    lightning_restore_optimizer = Strategy.lightning_restore_optimizer

    @abstractmethod
    def weight_shards(self) -> list[Tensor]:
        """This rank's shard of each parameter, in fp32; changes with the parameter."""

    @abstractmethod
    def write_weight_shards(self, shards: Sequence[Tensor]) -> None:
        """Set every copy of the weights to these shards; all ranks call this together."""

    @abstractmethod
    def whole(self, weight: Tensor) -> Tensor:
        """A parameter or buffer, whole and in the memory of the CPU; all ranks call this together.

        Only the first rank needs the result.
        """

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """Whole weights, by name; a tensor with two names is gathered once."""
        names = self._module.state_dict().keys()  # FSDP2 releases its gathered weights here
        weights = {
            **dict(self._module.named_parameters(remove_duplicate=False)),
            **dict(self._module.named_buffers(remove_duplicate=False)),
        }
        copies: dict[int, Tensor] = {}
        for name in names:
            if id(weights[name]) not in copies:
                copies[id(weights[name])] = self.whole(weights[name])
        return {name: copies[id(weights[name])] for name in names}

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module
