"""A record of what a run was fed: the SHA-256 of every micro-batch, a line each, per rank.

``trainer.log_batch_digests=true`` writes ``batches-<rank>.csv`` beside ``metrics.csv``. Two runs
that saw the same data have the same file; the proof of exact resume compares them.
"""

import hashlib
from dataclasses import fields, is_dataclass
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from neobert.files import write_atomically


class BatchDigests(Callback):
    """Appends one line per micro-batch; a resumed run first drops the lines of lost steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._path = self.folder / f"batches-{trainer.global_rank}.csv"
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        lines = self._path.read_text().splitlines()[: done + 1] if self._path.exists() else []
        if done == 0 or not lines:
            lines = ["micro_batch,sha256"]
        write_atomically(self._path, "\n".join(lines) + "\n")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        with self._path.open("a") as file:
            file.write(f"{batch_idx},{batch_digest(batch)}\n")


def batch_digest(batch: object) -> str:
    """SHA-256 over the tensors and numbers of a batch: types, shapes and values."""
    running = hashlib.sha256()
    _add(batch, running)
    return running.hexdigest()


def _add(value: object, running: "hashlib._Hash") -> None:
    if isinstance(value, Tensor):
        running.update(f"{value.dtype}{tuple(value.shape)}".encode())
        running.update(value.detach().cpu().contiguous().numpy().tobytes())
    elif is_dataclass(value):
        for field in fields(value):
            running.update(field.name.encode())
            _add(getattr(value, field.name), running)
    else:
        running.update(repr(value).encode())
