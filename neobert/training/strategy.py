"""On how many processes a run trains, and how they share the work.

One of the automatic choices; made here and nowhere else. ``trainer.strategy: auto`` takes one
process where there is one device, DeepSpeed where ``use_deepspeed`` is on and it can run, DDP
otherwise. What is named explicitly runs or is refused, never replaced.
"""

import inspect
import os
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from neobert.config.root import Config
from neobert.config.trainer import TrainerConfig
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.training.ranks import WatchedRanks
from neobert.training.strategy_checks import (
    DEEPSPEED,
    strategy_problems,
    why_no_deepspeed,
    zero_stage,
)
from neobert.training.strategy_deepspeed import ZeRO
from neobert.training.strategy_fsdp2 import FSDP2

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StrategyChoice:
    """The strategy resolved for this machine."""

    name: str
    """``single``, ``ddp``, ``fsdp2`` or ``deepspeed_zero<stage>``."""

    devices: int
    """Processes on each machine."""

    num_nodes: int = 1
    on_cuda: bool = False
    reason: str | None = None
    """One line for the user, where there was something to choose."""

    @property
    def is_deepspeed(self) -> bool:
        return self.name.startswith(DEEPSPEED)

    @property
    def saves_from_gpu(self) -> bool:
        """Whether a checkpoint's tensors are on a GPU; sharded ones are gathered on the CPU."""
        return self.on_cuda and self.name in ("single", "ddp")

    @property
    def processes(self) -> int:
        """Processes on all machines together."""
        return self.devices * self.num_nodes


def runs_on_cuda(settings: TrainerConfig) -> bool:
    """Whether this run uses a GPU: where there is one and ``trainer.use_cpu`` is false."""
    return torch.cuda.is_available() and not settings.use_cpu


def planned_processes(settings: TrainerConfig) -> int:
    """Processes of the run, also before they are connected."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return num_devices(settings.devices, runs_on_cuda(settings)) * settings.num_nodes


def with_shared_batch(config: Config) -> Config:
    """``config`` with this job's share of ``trainer.global_batch_size`` for each process.

    Raises ``ConfigError`` if it cannot be shared equally, or a stage sets a batch of its own.
    """
    settings = config.trainer
    rows, parts = settings.global_batch_size, settings.gradient_accumulation_steps
    if rows is None:
        return config
    if any(stage.per_device_train_batch_size is not None for stage in config.stages):
        raise ConfigError(
            f"trainer.global_batch_size={rows}: a stage sets per_device_train_batch_size; use one "
            "of them"
        )
    processes = planned_processes(settings)
    if rows % (processes * parts):
        raise ConfigError(
            f"trainer.global_batch_size={rows}: must be a multiple of {processes * parts} "
            f"({processes} processes × trainer.gradient_accumulation_steps={parts})"
        )
    share = rows // (processes * parts)
    return replace(config, trainer=replace(settings, per_device_train_batch_size=share))


def num_nodes(settings: TrainerConfig) -> int:
    """``trainer.num_nodes``; under torchrun as many as take part, which changes as they come and
    go."""
    if "GROUP_WORLD_SIZE" in os.environ and settings.devices == "auto":
        return int(os.environ["GROUP_WORLD_SIZE"])
    return settings.num_nodes


def resolve_strategy(config: Config, on_cuda: bool | None = None) -> StrategyChoice:
    """Choose; raises ``ConfigError`` if what is requested cannot run here.

    ``on_cuda``: whether the run uses a GPU; ``None`` finds out.
    """
    settings = config.trainer
    on_cuda = runs_on_cuda(settings) if on_cuda is None else on_cuda
    devices, nodes = num_devices(settings.devices, on_cuda), num_nodes(settings)
    name = settings.strategy
    reason: str | None = None
    if name == "auto":
        name, reason = _chosen(config, on_cuda, devices * nodes)
    if problems := strategy_problems(config, name, devices * nodes, on_cuda):
        raise ConfigError(*problems)
    return StrategyChoice(name, devices, nodes, on_cuda, reason)


def num_devices(devices: int | str, on_cuda: bool) -> int:
    """``trainer.devices``: as many as torchrun has started, all GPUs, or one process."""
    if devices != "auto":
        return int(devices)
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    return torch.cuda.device_count() if on_cuda else 1


def holds_whole_model(trainer: Trainer) -> bool:
    """Whether one process alone can run the model after training: no weight is partitioned."""
    strategy = trainer.strategy
    return not isinstance(strategy, FSDP2 | ZeRO) or (
        isinstance(strategy, ZeRO) and not strategy.zero_stage_3
    )


def build_strategy(config: Config, choice: StrategyChoice) -> Strategy:
    """The Lightning strategy of ``choice``."""
    if choice.reason is not None:
        log.info("%s", choice.reason)
    timeout = timedelta(seconds=config.trainer.rank_timeout)
    match choice.name:
        case "single":
            return SingleDeviceStrategy(device="cuda:0" if choice.on_cuda else "cpu")
        case "ddp":
            return DDP(timeout)
        case "fsdp2":
            return FSDP2(choice.processes, timeout)
        case _:
            return ZeRO(zero_stage(choice.name), config.deepspeed, timeout)


class DDP(WatchedRanks, DDPStrategy):
    """Every process holds everything; gradients are averaged while they are computed."""

    def __init__(self, timeout: timedelta) -> None:
        # The buffers are records of what this rank has seen: the first rank's would overwrite them
        # before each micro-batch.
        arguments = inspect.signature(DistributedDataParallel.__init__).parameters
        new = "forward_sync_buffers" in arguments  # torch 2.13 renamed it
        keywords: Any = {"forward_sync_buffers" if new else "broadcast_buffers": False}
        super().__init__(timeout=timeout, gradient_as_bucket_view=True, **keywords)


def _chosen(config: Config, on_cuda: bool, processes: int) -> tuple[str, str | None]:
    several = "ddp" if processes > 1 else "single"
    if not config.use_deepspeed:
        return several, None
    reason = why_no_deepspeed()
    if not on_cuda:
        reason = "there is no GPU"
    elif processes == 1:
        reason = "there is one device"
    elif config.model.ngpt:
        reason = "model.ngpt=true normalises weights after every step"
    if reason is None:
        return f"{DEEPSPEED}{config.deepspeed.stage}", None
    what = "DDP" if several == "ddp" else "one process"
    return several, f"strategy: {what}; use_deepspeed has no effect, since {reason}"
