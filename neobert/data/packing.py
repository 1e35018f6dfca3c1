"""Whole documents into rows of one length: best fit over a bounded window, planned once.

A plan says which pieces of documents make up each row; it holds no tokens. Best fit decreasing:
within a window of documents the longest come first, each into the row with the least room that
still holds it (Johnson 1973, "Near-optimal bin packing algorithms"; for language models Krell et
al. 2021, arXiv 2107.02027). Windows do not depend on each other, so a plan of any size is made
with the memory of a few windows, in several processes, and written as it is made.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neobert.data.arrays import ArrayWriter, open_array
from neobert.data.cache import opening
from neobert.data.curriculum import Crop, crop_documents
from neobert.data.processes import in_processes

WINDOW = 1 << 16
"""Documents that are packed together: bounds how far apart the documents of a row were."""

Numbers = NDArray[np.signedinteger]


@dataclass(frozen=True, slots=True)
class PlanInfo:
    """Totals of a plan."""

    documents: int = 0
    """Documents that are in a row; shorter ones than ``dataset.min_length`` may be left out."""

    tokens: int = 0
    """Tokens of text in all rows, opening and closing ones included."""

    cut_tokens: int = 0
    """Tokens that truncation left out."""

    def __add__(self, other: "PlanInfo") -> "PlanInfo":
        return PlanInfo(
            self.documents + other.documents,
            self.tokens + other.tokens,
            self.cut_tokens + other.cut_tokens,
        )


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Which pieces of documents make up each row."""

    document: Numbers
    """Number of each piece's document, row after row."""

    start: Numbers
    """First token of each piece within its document; empty where documents are truncated."""

    length: Numbers
    """Tokens of each piece, special ones not counted; empty where documents are truncated."""

    bounds: Numbers
    """Row ``i`` holds the pieces ``bounds[i]`` to ``bounds[i + 1]``; empty where each piece is a
    row."""

    room: int
    """Tokens of the longest piece, special ones not counted."""

    row_length: int
    info: PlanInfo = PlanInfo()

    @property
    def num_rows(self) -> int:
        return len(self.bounds) - 1 if len(self.bounds) else len(self.document)

    @property
    def fill(self) -> float:
        """Packing efficiency: the share of the rows' places that hold text."""
        return self.info.tokens / max(1, self.num_rows * self.row_length)

    def row(self, number: int) -> list[tuple[int, int, int]]:
        """(document, start, length) of the pieces of a row; a truncated document may be shorter
        than the length."""
        first, last = number, number + 1
        if len(self.bounds):
            first, last = self.bounds[number], self.bounds[number + 1]
        documents = self.document[first:last].tolist()
        if not len(self.start):
            return [(document, 0, self.room) for document in documents]
        start, length = self.start[first:last].tolist(), self.length[first:last].tolist()
        return list(zip(documents, start, length, strict=True))

    @classmethod
    def load(cls, folder: Path) -> "RowPlan":
        """Map what :meth:`Packing.write_plan` has written into memory; ``RunError``: damaged."""
        with opening(folder):
            numbers = json.loads((folder / "plan.json").read_text())
            document, start, length, bounds = (
                open_array(folder / f"{name}.npy")
                for name in ("document", "start", "length", "bounds")
            )
            info = PlanInfo(**numbers["info"])
            room, row_length = numbers["room"], numbers["row_length"]
            return cls(document, start, length, bounds, room, row_length, info)


@dataclass(frozen=True, slots=True)
class Packing:
    """How documents become rows."""

    row_length: int
    """Tokens of a packed row."""

    longest: int
    """Tokens of the longest document, special ones counted; at most ``row_length``."""

    wrapping: int
    """Special tokens that each piece takes beside its own."""

    packed: bool
    truncate: bool
    shortest: int = 0
    """Documents of fewer tokens are left out."""

    multiple: int = 1
    """Unpacked: the token axis is padded up to a multiple of this."""

    crop: Crop | None = None
    """Random lengths at which documents are cut, other ones in each epoch; no token is lost."""

    @property
    def truncates(self) -> bool:
        """Whether a document has one piece at most."""
        return self.truncate and self.crop is None

    def of_window(self, reader: int, window: int) -> "Packing":
        """The packing of documents that are numbered within a window of a stream's reader."""
        if self.crop is None:
            return self
        key = np.random.SeedSequence([self.crop.seed, reader, window])
        return replace(self, crop=replace(self.crop, seed=int(key.generate_state(1)[0])))

    @property
    def room(self) -> int:
        """Tokens of the longest piece, special ones not counted."""
        return self.longest - self.wrapping

    def plan(self, offsets: Numbers, window: int = WINDOW, epoch: int = 0) -> RowPlan:
        """The rows of documents whose tokens start at these ``offsets``, one more than documents,
        in memory."""
        plan_window = partial(self._plan_window, epoch=epoch)
        parts = [plan_window(documents) for documents in self._windows(offsets, window)]
        ends = np.cumsum([0, *(len(part.document) for part in parts)])
        bounds = [part.bounds[1:] + end for part, end in zip(parts, ends[:-1], strict=True)]
        nothing = np.zeros(0, np.int64)
        return RowPlan(
            np.concatenate([nothing, *(part.document for part in parts)]),
            np.concatenate([nothing, *(part.start for part in parts)]),
            np.concatenate([nothing, *(part.length for part in parts)]),
            np.concatenate([np.zeros(int(self.packed), np.int64), *bounds]),
            self.room,
            self.row_length,
            sum((part.info for part in parts), PlanInfo()),
        )

    def write_plan(
        self,
        offsets: Numbers,
        folder: Path,
        num_proc: int = 1,
        window: int = WINDOW,
        epoch: int = 0,
    ) -> None:
        """Plan window by window in ``num_proc`` processes, and write what :meth:`RowPlan.load`
        reads.

        Memory: two windows per process. ``offsets`` may be mapped from a file.
        """
        small = len(offsets) <= 1 << 31
        info, pieces = PlanInfo(), 0
        with (
            ArrayWriter(folder / "document.npy", np.int32 if small else np.int64) as document,
            ArrayWriter(folder / "start.npy", np.int32) as start,
            ArrayWriter(folder / "length.npy", np.int32) as length,
            ArrayWriter(folder / "bounds.npy", np.int64) as bounds,
        ):
            bounds.append(np.zeros(int(self.packed), np.int64))
            plan_window = partial(self._plan_window, epoch=epoch)
            for part in in_processes(plan_window, self._windows(offsets, window), num_proc):
                document.append(part.document)
                start.append(part.start)
                length.append(part.length)
                bounds.append(part.bounds[1:] + pieces)
                pieces += len(part.document)
                info += part.info
        numbers = {"room": self.room, "row_length": self.row_length, "info": asdict(info)}
        (folder / "plan.json").write_text(json.dumps(numbers))

    def _windows(self, offsets: Numbers, size: int) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Lengths of the documents of each window, and the number of its first.

        Where documents are cut up, a window ends with the document that fills ``size`` rows.
        """
        first, count = 0, len(offsets) - 1
        while first < count:
            last = min(first + size, count)
            if not self.truncates:
                full = int(offsets[first]) + size * self.room
                last = min(last, max(first + 1, int(np.searchsorted(offsets, full))))
            yield np.diff(offsets[first : last + 1]), first
            first = last

    def _plan_window(self, window: tuple[NDArray[np.int64], int], epoch: int) -> RowPlan:
        """The rows of one window: the lengths of its documents, and the number of its first."""
        lengths, begin = window
        if self.crop is not None:
            long = np.where(lengths >= max(1, self.shortest), lengths, 0)
            numbers = np.arange(begin, begin + len(lengths))
            document, start, length = crop_documents(numbers, long, self.crop, epoch)
            document = document - begin
        else:
            document, start, length = cut_documents(
                lengths, self.room, self.truncate, self.shortest
            )
        tokens = int(length.sum()) + self.wrapping * len(length)
        num_documents = int(np.count_nonzero(start == 0))
        cut = int(lengths[document].sum() - length.sum()) if self.truncates else 0
        order, bounds = np.arange(len(document)), np.zeros(0, np.int64)
        if self.packed:
            order, bounds = _best_fit(length + self.wrapping, self.row_length)
        stored = order[:0] if self.truncates else order
        return RowPlan(
            document[order] + begin,
            start[stored],
            length[stored],
            bounds,
            self.room,
            self.row_length,
            PlanInfo(num_documents, tokens, cut),
        )


def cut_documents(
    lengths: Numbers, room: int, truncate: bool, shortest: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Make documents fit into ``room`` tokens: truncate them, or cut them up without loss.

    Returns the document, the first token and the tokens of each piece. Empty documents and those
    of fewer tokens than ``shortest`` are left out.
    """
    documents = np.flatnonzero((lengths > 0) & (lengths >= shortest))
    lengths = np.asarray(lengths, dtype=np.int64)[documents]
    if truncate:
        return documents, np.zeros_like(documents), np.minimum(lengths, room)
    per_document = -(-lengths // room)
    document = np.repeat(documents, per_document)
    first = np.cumsum(per_document) - per_document
    start = (np.arange(len(document)) - np.repeat(first, per_document)) * room
    return document, start, np.minimum(np.repeat(lengths, per_document) - start, room)


def _best_fit(
    sizes: NDArray[np.int64], row_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the pieces row after row, and the bounds of the rows in them.

    ``open_sizes`` has bit r set where a row with r places left exists.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    open_sizes = 0
    order = np.argsort(-sizes, kind="stable")
    for number, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        fitting = open_sizes >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                open_sizes &= ~(1 << room)
        else:
            room, row = row_length, len(rows)
            rows.append([])
        rows[row].append(number)
        free = room - size
        with_room[free].append(row)
        open_sizes |= 1 << free
    bounds = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return np.array([number for row in rows for number in row], dtype=np.int64), bounds
