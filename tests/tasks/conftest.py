"""What a step reads back from the device, counted on a CPU where PyTorch makes the read."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode

import neobert
from neobert.training import run as subject

PACKAGE = str(Path(neobert.__file__).parent)
FIRST, LAST = 2, 5
"""Micro-batches that are watched: past the first steps, before the last, without a log line."""


class Reads(TorchDispatchMode):
    """Collects from where values of tensors were read, by code of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            stack = traceback.extract_stack()
            ours = [frame for frame in stack if frame.filename.startswith(PACKAGE)]
            # Batches are made on the CPU, and Adam keeps its count of steps there.
            on_cpu = any("torch/utils/data" in frame.filename for frame in stack)
            in_adam = any("torch/optim" in frame.filename for frame in stack[-8:])
            if ours and not on_cpu and not in_adam:
                self.places.append(f"{ours[-1].filename}:{ours[-1].lineno}")
        return function(*args, **(kwargs or {}))


class Watch(Callback):
    """Watches everything between the starts of two micro-batches; on a GPU, waiting is an error."""

    def __init__(self) -> None:
        self.reads = Reads()
        self.steps = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == FIRST:
            self.reads.__enter__()
            self._on_wait(trainer, "error")
        elif batch_idx == LAST:
            self._on_wait(trainer, "default")
            self.reads.__exit__(None, None, None)
        self.steps = batch_idx

    def _on_wait(self, trainer, mode: str) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def watching() -> Iterator[Watch]:
    """Watches the runs within the block."""
    watch = Watch()
    build = subject.build_trainer

    def watched(*arguments, **options):
        parts = build(*arguments, **options)
        parts.trainer.callbacks.insert(0, watch)
        return parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "build_trainer", watched)
        yield watch
    assert watch.steps >= LAST


@pytest.fixture
def watch() -> Iterator[Watch]:
    with watching() as watch:
        yield watch
