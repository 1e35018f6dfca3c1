"""Token store: the tokens of all documents end to end, read piece by piece.

A folder of ``tokens.npy`` (uint16, or uint32 for vocabularies over 65,536), ``offsets.npy`` (int64,
one more than documents), ``counts.npy`` (int64, how often each id occurs) and ``store.json``.
Special tokens are not stored: they are added when a row is laid out, so one store serves any row
length.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.uint16] | NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Content of ``store.json``."""

    documents: int
    tokens: int
    empty_documents: int
    """Documents without a token; they are not stored."""

    digest: str
    """SHA-256 of tokens and offsets: the same text under the same tokenizer has the same."""


class FileTokens:
    """The numbers of an ``.npy`` file, any stretch of which can be read.

    Not a memory map: the pages that one has touched count as the process's memory, and in random
    order a run touches all of them.
    """

    def __init__(self, path: Path) -> None:
        header = np.load(path, mmap_mode="r")
        self.path, self.dtype = path, header.dtype
        self._count, self._start = len(header), header.offset
        self._file: int | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, stretch: slice) -> Tokens:
        first, last, _ = stretch.indices(self._count)
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        size = self.dtype.itemsize
        raw = os.pread(self._file, max(0, last - first) * size, self._start + first * size)
        return np.frombuffer(raw, dtype=self.dtype)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}  # another process opens its own

    def __del__(self) -> None:
        file: int | None = getattr(self, "_file", None)
        if file is not None:
            os.close(file)


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Documents as ids. Opening one reads no tokens."""

    tokens: Tokens | FileTokens
    offsets: NDArray[np.int64]
    """Document ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``."""

    info: StoreInfo
    folder: Path | None = None
    """Where it lies; ``None``: in memory only."""

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """The store in ``folder``."""
        return cls(
            tokens=FileTokens(folder / "tokens.npy"),
            # A plain view: the class of memory maps takes a microsecond more for each number.
            offsets=np.load(folder / "offsets.npy", mmap_mode="r").view(np.ndarray),
            info=StoreInfo(**json.loads((folder / "store.json").read_text())),
            folder=folder,
        )

    @classmethod
    def empty(cls) -> "TokenStore":
        """A store without a document."""
        nothing = StoreInfo(documents=0, tokens=0, empty_documents=0, digest="")
        return cls(np.zeros(0, np.uint16), np.zeros(1, np.int64), nothing)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        return np.diff(self.offsets)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each id occurs, by id."""
        assert self.folder is not None
        return np.load(self.folder / "counts.npy")

    def document(self, number: int) -> Tokens:
        """Ids of one document."""
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]


def token_type(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smaller unsigned type that holds every id."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def write_store(
    folder: Path, batches: Iterable[tuple[Tokens, NDArray[np.int64]]], vocab_size: int
) -> StoreInfo:
    """Write batches of documents (their tokens end to end, their lengths) as a store.

    Empty documents are left out and counted. Memory: one batch, and 8 bytes per document.
    """
    dtype = np.dtype(token_type(vocab_size))
    counts = np.zeros(vocab_size, dtype=np.int64)
    kept: list[NDArray[np.int64]] = []
    digest, total, empty = sha256(), 0, 0
    with (folder / "tokens.npy").open("wb") as file:
        _write_header(file, dtype, 0)  # numpy leaves room in it for a longer number
        for tokens, lengths in batches:
            block = np.ascontiguousarray(tokens, dtype=dtype)
            file.write(block.data)
            digest.update(block.data)
            counts += np.bincount(block, minlength=vocab_size)
            kept.append(lengths[lengths > 0])
            empty += int((lengths == 0).sum())
            total += len(block)
        file.seek(0)
        _write_header(file, dtype, total)
    lengths = np.concatenate([np.zeros(1, dtype=np.int64), *kept])
    offsets = np.cumsum(lengths, dtype=np.int64)
    digest.update(offsets.data)
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "counts.npy", counts)
    info = StoreInfo(len(offsets) - 1, total, empty, digest.hexdigest())
    (folder / "store.json").write_text(json.dumps(asdict(info), indent=1))
    return info


def _write_header(file: BinaryIO, dtype: np.dtype, count: int) -> None:
    shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
    np.lib.format.write_array_header_1_0(file, {**shape, "shape": (count,)})
