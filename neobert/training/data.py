"""What the data of all tasks share: set up once, counted in steps, dealt to the ranks."""

import os
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule

from neobert.config.root import Config
from neobert.console import get_logger
from neobert.cores import available_cores
from neobert.data.loader import RepeatedBatches, TrainingLoader, Workers
from neobert.data.steps import Share
from neobert.training.strategy import planned_processes, runs_on_cuda

log = get_logger(__name__)


class RunDataModule(LightningDataModule, ABC):
    """The data of a run, addressable by step.

    A task says in :meth:`read` how it gets its data, in :meth:`training_batches` and
    ``val_dataloader`` how they become batches, and what a resumed run must share.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self._ready = False
        self._bounded: set[str] = set()
        """Keys of which it is logged already that they request more processes than cores."""

    def setup(self, stage: str | None = None) -> None:
        """Read the data, once per process; what is cached is taken from the cache."""
        if not self._ready:
            self.read()
            self._ready = True

    @abstractmethod
    def read(self) -> None:
        """Open or make everything that batches are made from."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every row is seen once."""

    @property
    def has_validation(self) -> bool:
        """Whether there is something to evaluate on, and ``trainer.eval_strategy`` wants it."""
        return self.config.trainer.eval_strategy != "no"

    @abstractmethod
    def training_batches(self) -> TrainingLoader[Any]:
        """The training batches of the whole run, which can continue in the middle."""

    def train_dataloader(self) -> Any:  # noqa: ANN401 - for Lightning, which takes any iterable
        """For Lightning: :meth:`training_batches`, or those of ``trainer.overfit_steps``."""
        settings = self.config.trainer
        batches = self.training_batches()
        if settings.overfit_steps:
            first = settings.overfit_steps * settings.gradient_accumulation_steps
            return RepeatedBatches(batches, first)
        return batches

    @abstractmethod
    def fingerprint(self) -> dict[str, object]:
        """What a resumed run must share, by setting."""

    @property
    def share(self) -> Share:
        """This rank's part of a step."""
        connected = dist.is_available() and dist.is_initialized()
        settings = self.config.trainer
        return Share(
            settings.per_device_train_batch_size,
            settings.gradient_accumulation_steps,
            dist.get_rank() if connected else 0,
            dist.get_world_size() if connected else planned_processes(settings),
        )

    @property
    def total_steps(self) -> int:
        """``trainer.max_steps``, else ``trainer.num_train_epochs`` in steps."""
        settings = self.config.trainer
        if settings.max_steps > 0:
            return settings.max_steps
        return settings.num_train_epochs * self.steps_per_epoch

    def workers(self, requested: int, key: str) -> Workers:
        """Loader processes as ``key`` requests them, at most as many as there are cores."""
        settings = self.config.dataset
        number = min(requested, available_cores())
        if number < requested and key not in self._bounded:
            self._bounded.add(key)
            log.info("%s: %d, as many as there are cores", key, number)
        if number > 0:  # threads of the tokenizer do not survive the fork of a worker
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        on_cuda = runs_on_cuda(self.config.trainer)
        prefetch = settings.prefetch_factor or (4 if on_cuda else None)
        pins = on_cuda or (settings.pin_memory and torch.cuda.is_available())  # else torch warns
        return Workers(number, prefetch, settings.persistent_workers, pins)
