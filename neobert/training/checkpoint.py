"""Checkpoints: folders that are complete when they are there, and checked before they are used.

::

    checkpoints/<step>/model.safetensors   weights, names of the published layout
                       config.yaml  tokenizer/  tokenizer_info.json  fingerprint.json
                       trainer_state.pt    optimizer, schedule, loops, callbacks, place in the data
                       manifest.json       size and SHA-256 of every file

A checkpoint is written under a temporary name and renamed when all of it is on disk.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from neobert.console import get_logger
from neobert.errors import ConfigError, RunError
from neobert.files import (
    REPLACED,
    TEMPORARY,
    first_line,
    is_disk_full,
    publish_folder,
    set_aside,
    sha256,
    write_json,
)

log = get_logger(__name__)

WEIGHTS = "model.safetensors"
STATE = "trainer_state.pt"
MANIFEST = "manifest.json"
FINGERPRINT = "fingerprint.json"
MODULE_PREFIX = "model."
"""Every LightningModule of ours keeps its network in ``self.model``."""


class FolderCheckpointIO(CheckpointIO):
    """Lightning's door to checkpoints that are folders."""

    def __init__(self, write_extras: Callable[[Path], None]) -> None:
        """``write_extras`` adds the files that describe the model: configuration, tokenizer."""
        self.write_extras = write_extras

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Write ``checkpoint`` to the folder ``path``, all of it or nothing.

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

    def _write(self, checkpoint: dict[str, object], folder: Path) -> None:
        state = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        weights = checkpoint["state_dict"]
        assert isinstance(weights, dict)
        _save_weights(weights, folder / WEIGHTS)
        with (folder / STATE).open("wb") as file:  # given a path, torch hides a full disk
            torch.save(state, file)
        self.write_extras(folder)
        _write_manifest(folder)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, object]:
        """Read a folder back. The pickle inside is only ever read as plain data and tensors."""
        path = Path(path)
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
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


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint, shared ones under each of their names."""
    weights = load_file(folder / WEIGHTS)
    for name, shared in _shared_names(folder / WEIGHTS).items():
        weights[name] = weights[shared]
    return weights


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Complete checkpoints below ``checkpoints``, by ascending step."""
    return [path for path in _numbered(checkpoints) if (path / MANIFEST).is_file()]


def damages(folder: Path) -> list[str]:
    """What is wrong with a checkpoint, file by file; empty when its checksums hold."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = {str(name): (entry["size"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return [f"{MANIFEST}: cannot be read ({error})"]
    found = [f"{MANIFEST}: does not list {name}" for name in (WEIGHTS, STATE) if name not in files]
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name}: missing")
        elif path.stat().st_size != size:
            found.append(f"{name}: {path.stat().st_size} bytes instead of {size}")
        elif sha256(path) != digest:
            found.append(f"{name}: its SHA-256 is not the recorded one")
    return found


def find_checkpoint(run: Path, selector: str) -> Path | None:
    """The checkpoint that ``trainer.resume_from_checkpoint`` names.

    ``latest``, ``auto`` and ``true`` take the newest undamaged one (``None`` if the run has none
    yet); a number takes that step; anything else is a path, of a checkpoint or of a run.
    """
    if selector.lower() in ("latest", "auto", "true"):
        return latest_checkpoint(run / "checkpoints")
    if re.fullmatch(r"\d+", selector):
        return _undamaged(run / "checkpoints" / selector)
    path = Path(selector)
    if not path.exists() and (run / selector).exists():
        path = run / selector
    if (path / "checkpoints").is_dir():
        found = latest_checkpoint(path / "checkpoints")
        if found is None:
            raise ConfigError(f"trainer.resume_from_checkpoint: {path} has no checkpoint yet")
        return found
    return _undamaged(path)


def latest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint whose checksums hold; damaged ones are named and passed over."""
    for folder in reversed(_numbered(checkpoints)):
        problems = damages(folder)
        if not problems:
            return folder
        log.warning("%s is damaged (%s); trying the one before", folder, "; ".join(problems))
    return None


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
    """Rename the checkpoints after ``step``, where a run goes on that trains their steps anew.

    Else ``latest`` would go on with them, and retention would keep them as the newest.
    """
    for folder in _numbered(checkpoints):
        if int(folder.name) > step:
            log.warning(
                "%s is of steps that are trained anew from step %d on; it lies in %s now",
                *(folder, step, set_aside(folder)),
            )


def _numbered(checkpoints: Path) -> list[Path]:
    """Folders that are called as a step, complete or not, by ascending step."""
    if not checkpoints.is_dir():
        return []
    folders = [path for path in checkpoints.iterdir() if path.name.isdigit() and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name))


def _undamaged(path: Path) -> Path:
    if not path.is_dir():
        there = ", ".join(folder.name for folder in list_checkpoints(path.parent)) or "none"
        raise ConfigError(
            f"trainer.resume_from_checkpoint: {path} does not exist; checkpoints there: {there}"
        )
    problems = damages(path)
    if problems:
        others = [folder for folder in list_checkpoints(path.parent) if folder != path]
        good = [folder for folder in reversed(others) if not damages(folder)]
        offer = f"; use {good[0]} instead" if good else ""
        raise ConfigError(
            f"trainer.resume_from_checkpoint: {path} is damaged: {'; '.join(problems)}{offer}"
        )
    return path


def _save_weights(state_dict: dict[str, Tensor], path: Path) -> None:
    """Write the network's tensors; one that two names share is stored once, as safetensors asks."""
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
    save_file(tensors, path, metadata={"format": "pt", **shared})


def _shared_names(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata = header.get("__metadata__", {})
    return {name: shared for name, shared in metadata.items() if shared in header}


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        {
            path.relative_to(folder).as_posix(): {
                "size": path.stat().st_size,
                "sha256": sha256(path),
            }
            for path in files
        },
        folder / MANIFEST,
    )
