"""DeepSpeed: ZeRO stages 0 to 3 as Lightning's strategy, on GPUs and, for tests, on CPUs.

Lightning's class refuses CPUs though DeepSpeed runs there, and its checkpoints are DeepSpeed's own.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar, cast

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from neobert.config.deepspeed import DeepSpeedConfig
from neobert.optim.sharded import Fragment
from neobert.training.strategy_sharded import Plain, ShardedStrategy
from neobert.training.zero_layout import Described, Place, describe_optimizer, find_places

MOVED = ("exp_avg", "exp_avg_sq", "momentum_buffer")
"""Optimizer states that are laid out like the weights."""

Batch = TypeVar("Batch")


class EnginePrecision(DeepSpeedPrecision):
    """Lightning's, mended: batches hold ids only, and accumulation is averaged once."""

    def convert_input(self, data: Batch) -> Batch:
        return data

    def backward(  # type: ignore[override]
        self, tensor: Tensor, model: LightningModule, optimizer: object, **kwargs: object
    ) -> None:
        """Lightning has divided the loss by the micro-batches already; the engine would again."""
        super().backward(tensor, model, None, scale_wrt_gas=False, **kwargs)


class ZeRO(ShardedStrategy, DeepSpeedStrategy):
    """DeepSpeed's engine around the module, with one format of checkpoints."""

    def __init__(self, stage: int, settings: DeepSpeedConfig, timeout: timedelta) -> None:
        if settings.config_file is not None:
            super().__init__(config=settings.config_file, timeout=timeout)
        else:
            super().__init__(
                zero_optimization=stage > 0,
                stage=stage,
                offload_optimizer=settings.offload_optimizer,
                offload_parameters=settings.offload_parameters,
                logging_batch_size_per_gpu=1,
                timeout=timeout,
            )
        config = cast(dict[str, object], self.config)
        config.setdefault("train_micro_batch_size_per_gpu", 1)  # for its speed log only
        config.setdefault("zero_allow_untested_optimizer", True)
        # The optimizer is this project's, also where its states lie in the memory of the CPU.
        config.setdefault("zero_force_ds_cpu_optimizer", False)
        self.grad_norm = torch.zeros(())
        """L2 norm of all gradients in the latest step, before clipping: filled in by the step."""

        self._engine: nn.Module | None = None
        self._places: list[Place] = []
        self._before: list[Described] = []

    # Lightning's class, without its demand for CUDA

    def setup_environment(self) -> None:
        self.precision_plugin = EnginePrecision(self.precision_plugin.precision)  # type: ignore[arg-type]
        if self.root_device.type != "cpu":
            super().setup_environment()
            return
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        if self.root_device.type != "cpu":
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        without_compiled_ops()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        lr_scheduler: LRScheduler | None = None,  # type: ignore[override]
    ) -> tuple[nn.Module, Optimizer]:
        import deepspeed  # an extra

        assert optimizer is not None
        self._before = describe_optimizer(optimizer)
        engine, wrapped, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.root_device.index or self.local_rank),
            config=self.config,
            model=model,
            model_parameters=[
                parameter for parameter in model.parameters() if parameter.requires_grad
            ],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        self._inner = optimizer
        self._engine = engine
        self._places = find_places(wrapped, optimizer, self._before)
        self._undo_first_step()
        return engine, wrapped

    @torch.no_grad()
    def _undo_first_step(self) -> None:
        """Stage 0 in bf16 or fp16 makes a step of zero gradients while it is set up.

        That would decay the weights and put Adam's count of steps one ahead.
        """
        self._inner.state.clear()
        for place in self._places:
            if place.part is None and place.master is not place.parameter:
                place.master.copy_(place.parameter)

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        """Before training the plain module evaluates, after it the engine that has the weights."""
        self.model = self._engine if self._engine is not None else model.to(self.root_device)

    def teardown(self) -> None:
        """Leave the weights where the engine keeps them: the evaluation at the end needs them."""
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()
        self.checkpoint_io.teardown()

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], object],
        model: LightningModule | nn.Module | None = None,
        **kwargs: object,
    ) -> object:
        """Step, and note the norm, which the engine alone knows."""
        output = super().optimizer_step(optimizer, closure, model, **kwargs)
        norm = self.deepspeed_engine.get_global_grad_norm()
        if norm is not None and self._shards:
            self.grad_norm.fill_(float(norm))
        return output

    def note_norm(self, module: nn.Module) -> Tensor:
        """``grad_norm``, which the step that follows fills in; stage 0 in fp32 does not tell it."""
        gradients = [
            parameter.grad for parameter in module.parameters() if parameter.grad is not None
        ]
        if not self._shards and gradients:
            self.grad_norm.fill_(float(torch.nn.utils.get_total_norm(gradients)))
        return self.grad_norm

    @property
    def _shards(self) -> bool:
        return any(place.master is not place.parameter for place in self._places)

    # Checkpoints of whole tensors

    def whole(self, weight: Tensor) -> Tensor:
        """The whole tensor, in fp32 where the optimizer has it, on every rank."""
        place = self._places_by_id.get(id(weight))
        value = weight if place is None else place.whole(place.held(place.master))
        return value.detach().cpu().clone()

    def weight_shards(self) -> list[Tensor]:
        return [place.held(place.master).detach() for place in self._places]

    def write_weight_shards(self, shards: Sequence[Tensor]) -> None:
        for place, shard in zip(self._places, shards, strict=True):
            _fill(place.fragments(), place.whole(shard))

    def optimizer_state(  # type: ignore[override]
        self, optimizer: Optimizer | LightningOptimizer
    ) -> Plain:
        """Whole states in the form of ``Optimizer.state_dict``, numbered in the groups' order."""
        states: dict[int, Plain] = {}
        for number, place in enumerate(self._places):
            state = self._inner.state.get(place.master, {})
            # Copies, also of the count of steps, which the parameters of a flat tensor share: the
            # fused AdamW of another strategy would count one step as many.
            states[number] = {
                key: (place.whole(place.held(value)).cpu() if key in MOVED else value).clone()
                for key, value in state.items()
            }
        groups, first = [], 0
        for group, described in zip(self._inner.param_groups, self._before, strict=True):
            numbers = list(range(first, first + len(described)))
            first += len(described)
            groups.append({**group, "params": numbers})
        return {"state": states, "param_groups": groups}

    def load_model_state_dict(self, checkpoint: Mapping[str, object], strict: bool = True) -> None:
        weights = cast(Mapping[str, Tensor], checkpoint["state_dict"])
        if not self._places:  # evaluation only: nothing is cut
            self._module.load_state_dict(weights, strict=strict)
            return
        names = self._module.state_dict().keys()
        if strict and names != weights.keys():
            raise RuntimeError(f"weights do not fit: {sorted({*names} ^ {*weights})}")
        parameters = dict(self._module.named_parameters(remove_duplicate=False))
        places = self._places_by_id
        for name, whole in weights.items():
            if name in parameters:
                _fill(places[id(parameters[name])].fragments(), whole)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, object]) -> None:
        whole = cast(list[dict[str, object]], checkpoint["optimizer_states"])[0]
        states = cast(dict[int, dict[str, Tensor]], whole["state"])
        for number, place in enumerate(self._places):
            state = self._inner.state[place.master]
            for key, value in states.get(number, {}).items():
                if key not in MOVED:
                    state[key] = value.clone()
                    continue
                if key not in state:
                    state[key] = torch.zeros_like(place.master)
                _fill([Fragment(place.held(state[key]), place.start)], value)
        saved = cast(list[dict[str, object]], whole["param_groups"])
        for group, values in zip(self._inner.param_groups, saved, strict=True):
            group.update({key: value for key, value in values.items() if key != "params"})

    @property
    def _places_by_id(self) -> dict[int, Place]:
        return {id(place.parameter): place for place in self._places}


def without_compiled_ops() -> None:
    """Tell DeepSpeed, on a CPU, that none of its compiled operations can be had.

    Else its first start runs the compiler for all of them, to see which can, and builds an
    all-reduce over shared memory: minutes on two cores, for what gloo does. The optimizers here
    need none of them.
    """
    from deepspeed import ops  # an extra
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    ops.__compatible_ops__ = dict.fromkeys(ALL_OPS, False)


@torch.no_grad()
def _fill(fragments: list[Fragment], whole: Tensor) -> None:
    numbers = whole.flatten()
    for fragment in fragments:
        size = fragment.tensor.numel()
        fragment.tensor.copy_(numbers.narrow(0, fragment.start, size).to(fragment.tensor.device))
