"""FSDP2: weights, gradients and optimizer states are sharded by rows (``fully_shard``).

Each block is one unit, everything else another; the LightningModule is the root, so that tasks need
not know.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from neobert.model.self_attention import SelfAttention
from neobert.training.strategy_sharded import Plain, ShardedStrategy

STEPS = ("training_step", "validation_step", "test_step", "predict_step")
"""Methods through which the model is run: weights are gathered before and released after."""


class FSDP2(ShardedStrategy, ModelParallelStrategy):
    """One group of ranks, each with its rows of every tensor."""

    def __init__(self, processes: int, timeout: timedelta) -> None:
        super().__init__(
            data_parallel_size=processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timeout,
        )

    def setup(self, trainer: Trainer) -> None:
        """As Lightning's, but the sharding is done here and not by the task."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        module = cast(LightningModule, self.precision_plugin.convert_module(self._module))
        self.model = module
        self.model_to_device()
        if not isinstance(module, FSDPModule):
            shard_(module, self.device_mesh["data_parallel"])
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def weight_shards(self) -> list[Tensor]:
        for module in self._module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # an evaluation leaves the root's weights gathered
        with torch.no_grad():
            return [cast(DTensor, weight).to_local() for weight in self._module.parameters()]

    @torch.no_grad()
    def write_weight_shards(self, shards: Sequence[Tensor]) -> None:
        for weight, value in zip(self.weight_shards(), shards, strict=True):
            weight.copy_(value)

    @torch.no_grad()
    def whole(self, weight: Tensor) -> Tensor:
        """The whole tensor on the first rank; empty on the others."""
        if not isinstance(weight, DTensor):
            return weight.detach().cpu()
        whole = weight.full_tensor()
        return whole.cpu() if self.is_global_zero else torch.empty(0)

    def optimizer_state(  # type: ignore[override]
        self, optimizer: Optimizer | LightningOptimizer
    ) -> Plain:
        """Whole states on the first rank, in the form of ``Optimizer.state_dict``."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = inner.state_dict()
        state["state"] = {
            number: {key: self.whole(value) for key, value in values.items()}
            for number, values in state["state"].items()
        }
        return state

    def load_model_state_dict(self, checkpoint: Mapping[str, object], strict: bool = True) -> None:
        weights = cast(Mapping[str, Tensor], checkpoint["state_dict"])
        current = self._module.state_dict()
        parts = {
            name: sharded_like(current[name], tensor) if name in current else tensor
            for name, tensor in weights.items()
        }
        self._module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, object]) -> None:
        states = cast(list[dict[str, object]], checkpoint["optimizer_states"])
        for optimizer, whole in zip(self.optimizers, states, strict=True):
            parameters = [
                parameter for group in optimizer.param_groups for parameter in group["params"]
            ]
            parts = {
                number: {
                    key: sharded_like(parameters[number], value) if value.ndim else value
                    for key, value in values.items()
                }
                for number, values in cast(dict[int, dict[str, Tensor]], whole["state"]).items()
            }
            optimizer.load_state_dict({**whole, "state": parts})


def shard_(module: LightningModule, mesh: DeviceMesh) -> None:
    """Spread the rows of all parameters of ``module`` over the ranks of ``mesh``."""
    for block in module.modules():
        if isinstance(block, SelfAttention):
            fully_shard(block, mesh=mesh)
    root = cast(nn.Module, fully_shard(module, mesh=mesh))
    for name in STEPS:
        register_fsdp_forward_method(root, name)


def sharded_like(example: Tensor, whole: Tensor) -> Tensor:
    """``whole`` on the device of ``example``, and in its rows if it is sharded."""
    whole = whole.to(example.device)
    if not isinstance(example, DTensor):
        return whole
    return distribute_tensor(
        whole.to(example.dtype), example.device_mesh, example.placements, src_data_rank=None
    )
