"""Checkpoints: folders that are written atomically and verified before use.

::

    checkpoints/<step>/model.safetensors   weights, names of the published layout
                       config.yaml  tokenizer/  tokenizer_info.json  fingerprint.json
                       trainer_state.pt    optimizer, schedule, loops, callbacks, place in the data
                       manifest.json       size and SHA-256 of every file

A checkpoint is written under a temporary name and renamed when all of it is on disk. While a run
trains, a thread does that (:mod:`neobert.training.checkpoint_thread`).
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError, safe_open
from torch import Tensor

from neobert.console import get_logger
from neobert.errors import ConfigError, RunError
from neobert.files import (
    REPLACED,
    TEMPORARY,
    HashingFile,
    first_line,
    is_disk_full,
    publish_folder,
    reading,
    set_aside,
)
from neobert.model.weight_files import WEIGHTS, write_weights
from neobert.training.manifest import STATE, numbered, write_manifest

log = get_logger(__name__)

FINGERPRINT = "fingerprint.json"
KEY = "trainer.resume_from_checkpoint"
STATE_PARTS = ("loops", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "epoch")
"""What exact resume needs of Lightning's checkpoint."""

MODULE_PREFIX = "model."
"""Every LightningModule of ours keeps its network in ``self.model``."""


class FolderCheckpointIO(CheckpointIO):
    """Lightning's door to checkpoints that are folders."""

    def __init__(self, write_extras: Callable[[Path], None]) -> None:
        """``write_extras`` adds the files that describe the model: configuration, tokenizer."""
        self.write_extras = write_extras

    def save_checkpoint(
        self,
        checkpoint: dict[str, object],
        path: str | Path,
        storage_options: Callable[[], None] | None = None,
    ) -> None:
        """Write ``checkpoint`` to the folder ``path``, all of it or nothing.

        ``storage_options``, which Lightning hands on, is called when the checkpoint is complete.
        Raises ``RunError`` where it cannot be written; the checkpoints before it stay.
        """
        path = Path(path)
        remove_leftovers(path.parent)
        try:
            with publish_folder(path, replace=True) as temporary:
                self._write(checkpoint, temporary)
        except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own
            advice = "make room, then resume" if is_disk_full(error) else "resume"
            raise RunError(
                f"{path} could not be written ({first_line(error)}): {advice} "
                "from the checkpoint before it (trainer.resume_from_checkpoint=latest)"
            ) from error
        if storage_options is not None:
            storage_options()

    def _write(self, checkpoint: dict[str, object], folder: Path) -> None:
        state = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        weights = checkpoint["state_dict"]
        assert isinstance(weights, dict)
        digests = {WEIGHTS: save_weights(weights, folder / WEIGHTS)}
        with (folder / STATE).open("wb") as opened:  # given a path, torch hides a full disk
            file = HashingFile(opened)
            torch.save(state, cast(IO[bytes], file))  # it needs no more than write and flush
            digests[STATE] = file.sha256
        self.write_extras(folder)
        write_manifest(folder, digests)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, object]:
        """Read a folder back. The pickle inside is only ever read as plain data and tensors."""
        path = Path(path)
        with reading(path / STATE, KEY):
            state = torch.load(path / STATE, map_location="cpu", weights_only=True)
            _check_state(state, path)
        with reading(path / WEIGHTS, KEY):
            state["state_dict"] = {
                MODULE_PREFIX + name: tensor for name, tensor in load_weights(path).items()
            }
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint; a crash on the way leaves nothing that looks like one."""
        path = Path(path)
        doomed = path.with_name(f"{TEMPORARY}removed-{path.name}-{os.getpid()}")
        path.rename(doomed)
        shutil.rmtree(doomed)


def _check_state(state: object, path: Path) -> None:
    if not isinstance(state, dict):
        raise ValueError("it holds no state of a run")
    if missing := [name for name in STATE_PARTS if name not in state]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if path.name.isdigit() and state["global_step"] != int(path.name):
        raise ConfigError(
            f"{KEY}={path}: the checkpoint is of step {state['global_step']}; its folder must be "
            "called so"
        )


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint, shared ones under each of their names."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        metadata = file.metadata() or {}
    shared = {name: first for name, first in metadata.items() if first in weights}
    return weights | {name: weights[first] for name, first in shared.items()}


def remove_leftovers(checkpoints: Path) -> None:
    """Delete what an interrupted save or removal left; complete checkpoints are never touched."""
    for path in checkpoints.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in checkpoints.glob(f"{REPLACED}*"):
        name = path.with_name(path.name.removeprefix(REPLACED))
        if name.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:  # killed between the two renames of _publish
            path.rename(name)


def set_aside_later(checkpoints: Path, step: int) -> None:
    """Rename the checkpoints after ``step``, when a run resumes that repeats their steps.

    Else ``latest`` would resume from them, and retention would keep them as the newest.
    """
    for folder in numbered(checkpoints):
        if int(folder.name) > step:
            log.warning(
                "%s: steps after %d are trained again; this checkpoint was moved to %s",
                *(folder, step, set_aside(folder)),
            )


def save_weights(state_dict: dict[str, Tensor], path: Path) -> str:
    """Write the network's tensors, one that two names share once; return the file's SHA-256."""
    first_name: dict[tuple[int, int | torch.SymInt], str] = {}
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for full_name, tensor in state_dict.items():
        name = full_name.replace("_orig_mod.", "").removeprefix(MODULE_PREFIX)
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
        if tensor.numel() and place in first_name:
            shared[name] = first_name[place]
            continue
        first_name[place] = name
        tensors[name] = tensor.detach().cpu().contiguous()
    return write_weights(tensors, path, {"format": "pt", **shared})
