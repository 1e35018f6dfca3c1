"""Weights in a DeepSpeed ZeRO folder, put together by DeepSpeed's own converter.

Such a folder has ``*_model_states.pt`` and a ``*_optim_states.pt`` per process, which hold pieces
of the fp32 weights. It lies where a checkpoint does, or below it: in the folder that the file
``latest`` names, or in the only one (``pytorch_model`` of Accelerate, ``checkpoint`` of Lightning).
The files are pickles; they are read as plain data, so that no code in them can run.
"""

import importlib
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from neobert.files import first_line, read_text
from neobert.model.weight_files import PretrainedError

PIECES = "*_optim_states.pt"
FORCE_PLAIN_DATA = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""With it every ``torch.load`` refuses code, the converter's own calls too."""

RECORDS = {
    "deepspeed.runtime.zero.config": ("ZeroStageEnum",),
    "deepspeed.runtime.fp16.loss_scaler": ("LossScaler", "DynamicLossScaler"),
    "deepspeed.utils.tensor_fragment": ("fragment_address",),
}
"""Classes of DeepSpeed whose instances are in the files: numbers under names."""


def zero_folder(folder: Path) -> Path | None:
    """The folder with the pieces: ``folder`` or one below it; ``None`` if there is none."""
    if _has_pieces(folder):
        return folder
    if (folder / "latest").is_file():
        try:
            name = read_text(folder / "latest").strip()
        except (OSError, ValueError) as error:
            message = f"{folder / 'latest'} cannot be read: {first_line(error)}"
            raise PretrainedError(message) from error
        if Path(name).name != name or name in ("", ".", ".."):
            raise PretrainedError(f"{folder / 'latest'} names {name!r}, which is no folder's name")
        return folder / name if _has_pieces(folder / name) else None
    below = [path for path in folder.iterdir() if _has_pieces(path)] if folder.is_dir() else []
    return below[0] if len(below) == 1 else None


def read_zero(pieces: Path) -> dict[str, Tensor]:
    """All weights in fp32, by the names that the training module gave them."""
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise PretrainedError(
            f"{pieces} was saved by DeepSpeed ZeRO, whose package puts its pieces together: "
            f"pip install 'neobert[deepspeed]' ({error})"
        ) from error
    try:
        with _plain_data_only(), redirect_stdout(sys.stderr):
            return get_fp32_state_dict_from_zero_checkpoint(str(pieces.parent), tag=pieces.name)
    except pickle.UnpicklingError as error:
        raise PretrainedError(
            f"{pieces} holds more than data, so it is not read: {error}"
        ) from error
    except Exception as error:  # damaged files make the converter fail in any way
        raise PretrainedError(
            f"{pieces}: DeepSpeed cannot put it together: {type(error).__name__}: {error}"
        ) from error


def _has_pieces(folder: Path) -> bool:
    return folder.is_dir() and next(folder.glob(PIECES), None) is not None


@contextmanager
def _plain_data_only() -> Iterator[None]:
    before = os.environ.get(FORCE_PLAIN_DATA)
    os.environ[FORCE_PLAIN_DATA] = "1"
    try:
        with torch.serialization.safe_globals(list(_records())):
            yield
    finally:
        del os.environ[FORCE_PLAIN_DATA]
        if before is not None:
            os.environ[FORCE_PLAIN_DATA] = before


def _records() -> Iterator[type]:
    for module, names in RECORDS.items():
        try:
            records = importlib.import_module(module)
        except ImportError:  # another version keeps it elsewhere, and its files name it there
            continue
        yield from (getattr(records, name) for name in names if hasattr(records, name))
