"""Files that hold weights, read without trusting them: safetensors only, and nothing is executed.

A folder has ``model.safetensors``, or shards named by ``model.safetensors.index.json``. Whatever is
wrong with it - absent, cut off, damaged, made to do harm - is a :class:`PretrainedError`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from neobert.errors import ConfigError
from neobert.files import HashingFile, first_line, read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "model.pt", "model.ckpt")
MANIFEST = "manifest.json"
"""File of a checkpoint of ours; it has the checksums of the others."""

TOKENIZER_INFO = "tokenizer_info.json"
"""File of a checkpoint with what follows from its tokenizer, and the names of its labels."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls the types of tensors."""


class PretrainedError(ConfigError):
    """Weights, or what describes them, cannot be used; the message says which file and why."""


class NoWeightsError(PretrainedError, FileNotFoundError):
    """There are no weights where they were looked for."""


def has_weights(folder: Path) -> bool:
    """Whether ``folder`` has weights, whole or in shards."""
    return (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the tensors of a folder."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise NoWeightsError(f"{folder} has no {WEIGHTS}: {what_is_there(folder)}")
    return [folder / name for name in _shards(folder / INDEX)]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, as stored, by name. Mapped into memory, not copied."""
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        weights |= _read_shard(file)
    return weights


def write_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> str:
    """Write a safetensors file and return its SHA-256, made while writing.

    Equal tensors and metadata give equal bytes; safetensors' own writer has its metadata in random
    order. Tensors are on the CPU.
    """
    names = sorted(weights, key=lambda name: (-weights[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in names:
        tensor, start = weights[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as opened:
        file = HashingFile(opened)
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(weights[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return file.sha256


def what_is_there(folder: Path) -> str:
    """Why a folder has no weights for us, for a message."""
    pickles = [name for name in PICKLES if (folder / name).is_file()]
    if pickles:
        return f"only {pickles[0]}, a pickle, which could run code; save it as safetensors first"
    files = folder.iterdir() if folder.is_dir() else ()
    names = sorted(path.name for path in files if not path.name.startswith("."))
    return f"there are {', '.join(names[:8])}" if names else "it is empty"


def read_json_object(path: Path) -> dict[str, object]:
    """The object in a JSON file."""
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise PretrainedError(f"{path} is not JSON: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise PretrainedError(f"{path} holds a {type(values).__name__}, not an object")
    return values


def _shards(index: Path) -> list[str]:
    """File names of an index: plain names, so that none leads out of the folder."""
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise PretrainedError(f"{index} has no weight_map")
    names = sorted({str(name) for name in places.values()})
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise PretrainedError(
                f"{index} names the shard {name!r}; only *.safetensors in the same folder are read"
            )
    return names


def _read_shard(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, OverflowError) as error:
        raise PretrainedError(
            f"{path} is damaged or no safetensors file: {first_line(error)}"
        ) from error
    odd = [name for name, tensor in weights.items() if not tensor.is_floating_point()]
    if odd:
        raise PretrainedError(f"{path}: {odd[0]!r} is {weights[odd[0]].dtype}, not a float")
    return weights
