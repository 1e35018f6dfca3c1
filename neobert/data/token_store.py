"""Token store: the tokens of all documents, in shards, read piece by piece.

::

    shards/00000/  tokens.npy   uint16, or uint32 for vocabularies over 65,536
                   lengths.npy  int32, tokens of each document
                   counts.npy   int64, how often each id occurs
                   shard.json
    …
    offsets.npy    int64, one more than documents: where each document starts among all tokens
    starts.npy     int64, one more than shards: where each shard starts among all tokens
    counts.npy
    store.json     written last: the store is complete

A shard holds the documents of ``SHARD`` consecutive rows of the source. Special tokens are not
stored: they are added when a row is laid out, so one store serves any row length.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neobert.data.arrays import ArrayWriter, open_array
from neobert.data.cache import opening
from neobert.files import replacing, write_json
from neobert.text_tokenizer import Encoded

Tokens = NDArray[np.uint16] | NDArray[np.uint32]

SHARD = 1 << 14
"""Rows of the source in a shard."""

OPEN_FILES = 64
"""Shards that a process keeps open."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Content of ``store.json``, and of each ``shard.json``."""

    documents: int
    tokens: int
    empty_documents: int
    """Documents without a token; they are not stored."""

    digest: str
    """SHA-256 of tokens and lengths: the same text under the same tokenizer has the same."""


class FileTokens:
    """The tokens of all shards end to end, any stretch of which can be read.

    Not a memory map: the pages that one has touched count as the process's memory, and in random
    order a run touches all of them.
    """

    def __init__(self, paths: Sequence[Path], starts: NDArray[np.signedinteger]) -> None:
        self.paths, self.starts = paths, starts
        self._files: OrderedDict[int, tuple[int, int, np.dtype]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, stretch: slice) -> Tokens:
        first, last, _ = stretch.indices(len(self))
        shard = int(np.searchsorted(self.starts, first, side="right")) - 1
        parts: list[Tokens] = []
        while first < last or not parts:
            end = min(last, int(self.starts[shard + 1])) if shard + 1 < len(self.starts) else last
            parts.append(self._read(min(shard, len(self.paths) - 1), first, end))
            first, shard = end, shard + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)  # type: ignore[return-value]

    def _read(self, shard: int, first: int, last: int) -> Tokens:
        file, header, dtype = self._open(shard)
        place = header + (first - int(self.starts[shard])) * dtype.itemsize
        size = max(0, last - first) * dtype.itemsize
        content = os.pread(file, size, place)
        if len(content) < size:
            with opening(self.paths[shard].parents[2]):
                raise ValueError(f"{self.paths[shard].name} of shard {shard} is cut off")
        return np.frombuffer(content, dtype)

    def _open(self, shard: int) -> tuple[int, int, np.dtype]:
        """Descriptor, size of the header and type of a shard's file."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        if len(self._files) >= OPEN_FILES:
            os.close(self._files.popitem(last=False)[1][0])
        with opening(self.paths[shard].parents[2]), self.paths[shard].open("rb") as file:
            np.lib.format.read_magic(file)
            _, _, dtype = np.lib.format.read_array_header_1_0(file)
            self._files[shard] = (os.dup(file.fileno()), file.tell(), dtype)
        return self._files[shard]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict()}  # another process opens its own

    def __del__(self) -> None:
        for file, _, _ in getattr(self, "_files", {}).values():
            os.close(file)


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Documents as ids. Opening one reads no tokens."""

    tokens: Tokens | FileTokens
    offsets: NDArray[np.signedinteger]
    """Document ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``."""

    info: StoreInfo
    folder: Path | None = None
    """Where it is; ``None``: in memory only."""

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """The store in ``folder``. Raises ``RunError`` if it is damaged."""
        with opening(folder):
            starts = open_array(folder / "starts.npy")
            offsets = open_array(folder / "offsets.npy")
            info = StoreInfo(**json.loads((folder / "store.json").read_text()))
        paths = [shard_folder(folder, number) / "tokens.npy" for number in range(len(starts) - 1)]
        tokens = FileTokens(paths, starts) if paths else np.zeros(0, np.uint16)
        return cls(tokens, offsets, info, folder)

    @classmethod
    def in_memory(cls, batches: Iterable[Encoded] = ()) -> "TokenStore":
        """A store of these documents in memory, empty ones included."""
        parts = [(np.zeros(0, np.uint32), np.zeros(0, np.int64)), *batches]
        tokens = np.concatenate([ids for ids, _ in parts])
        lengths = np.concatenate([sizes for _, sizes in parts])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        info = StoreInfo(len(lengths), len(tokens), int((lengths == 0).sum()), digest="")
        return cls(tokens, offsets, info)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        return np.diff(self.offsets)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each id occurs, by id."""
        assert self.folder is not None
        with opening(self.folder):
            counts: NDArray[np.int64] = np.load(self.folder / "counts.npy")
        return counts

    def document(self, number: int) -> Tokens:
        """Ids of one document."""
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]


def shard_folder(store: Path, number: int) -> Path:
    """Where a shard of a store is."""
    return store / "shards" / f"{number:05d}"


def is_complete(store: Path) -> bool:
    """Whether a store is complete."""
    return (store / "store.json").is_file()


def write_shard(folder: Path, batches: Iterable[Encoded], vocab_size: int) -> int:
    """Write batches of documents, and return how many they were, empty ones included.

    Empty documents are left out and counted. Memory: one batch.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    digest, rows, documents, total = sha256(), 0, 0, 0
    token_type = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    with (
        ArrayWriter(folder / "tokens.npy", token_type) as tokens_file,
        ArrayWriter(folder / "lengths.npy", np.int32) as lengths_file,
    ):
        for tokens, lengths in batches:
            block = np.ascontiguousarray(tokens, dtype=tokens_file.dtype)
            sizes = np.ascontiguousarray(lengths[lengths > 0], dtype=np.int32)
            tokens_file.append(block)
            lengths_file.append(sizes)
            digest.update(block.data)
            digest.update(sizes.data)
            counts += np.bincount(block, minlength=vocab_size)
            rows, documents, total = rows + len(lengths), documents + len(sizes), total + len(block)
    np.save(folder / "counts.npy", counts)
    info = StoreInfo(documents, total, rows - documents, digest.hexdigest())
    write_json(asdict(info), folder / "shard.json")
    return rows


def join_shards(store: Path, shards: int, vocab_size: int) -> StoreInfo:
    """Complete a store all of whose shards exist. Memory: one shard."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    starts, digest = [0], sha256()
    documents = empty = 0
    with (
        replacing(store / "offsets.npy") as file,
        ArrayWriter(file, np.int64) as offsets,
    ):
        offsets.append(np.zeros(1, np.int64))
        for folder in (shard_folder(store, number) for number in range(shards)):
            info = StoreInfo(**json.loads((folder / "shard.json").read_text()))
            counts += np.load(folder / "counts.npy")
            offsets.append(np.cumsum(np.load(folder / "lengths.npy"), dtype=np.int64) + starts[-1])
            starts.append(starts[-1] + info.tokens)
            digest.update(info.digest.encode())
            documents, empty = documents + info.documents, empty + info.empty_documents
    for name, numbers in (("starts", np.array(starts, np.int64)), ("counts", counts)):
        with replacing(store / f"{name}.npy") as file, file.open("wb") as opened:
            np.save(opened, numbers)
    joined = StoreInfo(documents, starts[-1], empty, digest.hexdigest())
    write_json(asdict(joined), store / "store.json")
    return joined


def write_store(folder: Path, batches: Iterable[Encoded], vocab_size: int) -> StoreInfo:
    """Write documents as a store of one shard."""
    shard_folder(folder, 0).mkdir(parents=True)
    write_shard(shard_folder(folder, 0), batches, vocab_size)
    return join_shards(folder, 1, vocab_size)
