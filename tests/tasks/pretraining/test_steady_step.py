"""A step between two log lines reads nothing back from the device: a GPU's queue never runs empty.

On a CPU nothing waits, so each read is counted where PyTorch makes it: ``item()``, ``int()``,
``float()`` and ``bool()`` of a tensor come to ``aten::_local_scalar_dense`` on every device.
"""

import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode

import neobert
from neobert.config.compose import compose_config
from neobert.tasks import run as run_task
from neobert.training import run as subject
from neobert.training.callbacks.train_metrics import TrainMetrics

from .conftest import TINY

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
    """Watches everything between the starts of two micro-batches."""

    def __init__(self) -> None:
        self.reads = Reads()
        self.steps = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == FIRST:
            self.reads.__enter__()
        elif batch_idx == LAST:
            self.reads.__exit__(None, None, None)
        self.steps = batch_idx


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    watch = Watch()
    build = subject.build_trainer

    def watched(*arguments, **options):
        parts = build(*arguments, **options)
        parts.trainer.callbacks.insert(0, watch)
        return parts

    monkeypatch.setattr(subject, "build_trainer", watched)
    yield watch
    assert watch.steps >= LAST


STEADY = (
    "trainer.max_steps=8",
    "trainer.logging_steps=100",
    "trainer.eval_strategy=no",
    "trainer.save_strategy=no",
    "trainer.gradient_clipping=1.0",
    "trainer.log_grad_norm=true",
)


@pytest.mark.parametrize(
    "words",
    [
        ("optimizer=adamw",),
        ("optimizer=adamw", "trainer.gradient_accumulation_steps=2", "trainer.max_steps=4"),
        ("optimizer=adamw", "trainer.log_train_accuracy=true", "datacollator.pack_sequences=true"),
        ("optimizer=muonclip", "optimizer.muon_config.clipping_interval=2"),
        ("optimizer=adamw", "model.ngpt=true"),
    ],
)
def test_pretraining(
    watch: Watch, tiny_corpus: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    own = (f"dataset.path={tiny_corpus / 'corpus.txt'}", f"trainer.output_dir={tmp_path / 'run'}")
    cache = f"dataset.cache_dir={tiny_corpus / 'cache'}"
    run_task(compose_config([*TINY, *own, cache, *STEADY, *words]))
    assert watch.reads.places == []


def test_a_read_is_noticed(
    watch: Watch, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running numbers of the progress bar are read where they are shown."""
    original = TrainMetrics.on_train_batch_end

    def reading(self, trainer, pl_module, outputs, batch, batch_idx):
        original(self, trainer, pl_module, outputs, batch, batch_idx)
        self.running(pl_module)

    monkeypatch.setattr(TrainMetrics, "on_train_batch_end", reading)
    own = (f"dataset.path={tiny_corpus / 'corpus.txt'}", f"trainer.output_dir={tmp_path / 'run'}")
    cache = f"dataset.cache_dir={tiny_corpus / 'cache'}"
    run_task(compose_config([*TINY, *own, cache, *STEADY]))
    assert any("train_metrics.py" in place for place in watch.reads.places)
