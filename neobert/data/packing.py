"""Whole documents into rows of one length: best fit over a bounded window, planned once.

A plan is arrays of numbers, no tokens: a million documents take seconds, and any row can be laid
out by its number. Best fit decreasing: within a window of documents the longest go first, each into
the row with the least room that still holds it (Johnson 1973, "Near-optimal bin packing
algorithms"; for language models Krell et al. 2021, arXiv 2107.02027).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WINDOW = 1 << 16
"""Documents that are packed together: bounds how far apart the documents of a row were."""

Numbers = NDArray[np.int64] | NDArray[np.int32]

ARRAYS = ("document", "start", "length", "order", "bounds")
"""What a plan consists of, a file each."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Stretches of documents that fit into a row; a document that fits is one piece."""

    document: Numbers
    start: Numbers
    """First token of the piece within its document."""

    length: Numbers
    """Tokens, special ones not counted."""

    cut_tokens: int
    """Tokens that truncation left out."""


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Which pieces lie in which row."""

    pieces: Pieces
    order: Numbers
    """Numbers of pieces, row after row."""

    bounds: Numbers
    """Row ``i`` holds the pieces ``order[bounds[i]:bounds[i + 1]]``."""

    row_length: int
    tokens: int
    """Tokens of text in all rows, opening and closing ones included."""

    @property
    def num_rows(self) -> int:
        return len(self.bounds) - 1

    @property
    def fill(self) -> float:
        """Share of the rows' places that hold text."""
        return self.tokens / max(1, self.num_rows * self.row_length)

    def row(self, number: int) -> list[tuple[int, int, int]]:
        """(document, start, length) of the pieces of a row."""
        chosen = self.order[self.bounds[number] : self.bounds[number + 1]]
        parts = self.pieces
        return list(
            zip(
                parts.document[chosen].tolist(),
                parts.start[chosen].tolist(),
                parts.length[chosen].tolist(),
                strict=True,
            )
        )

    def save(self, folder: Path) -> None:
        """Keep the plan in ``folder``."""
        for name, values in self._arrays().items():
            small = int(values.max(initial=0)) < 1 << 31
            np.save(folder / f"{name}.npy", values.astype(np.int32 if small else np.int64))
        numbers = {
            "cut_tokens": self.pieces.cut_tokens,
            "row_length": self.row_length,
            "tokens": self.tokens,
        }
        (folder / "plan.json").write_text(json.dumps(numbers))

    @classmethod
    def load(cls, folder: Path) -> "RowPlan":
        """Map what :meth:`save` has written into memory."""
        numbers = json.loads((folder / "plan.json").read_text())
        document, start, length, order, bounds = (
            np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in ARRAYS
        )
        pieces = Pieces(document, start, length, numbers["cut_tokens"])
        return cls(pieces, order, bounds, numbers["row_length"], numbers["tokens"])

    def _arrays(self) -> dict[str, Numbers]:
        parts = self.pieces
        arrays = (parts.document, parts.start, parts.length, self.order, self.bounds)
        return dict(zip(ARRAYS, arrays, strict=True))


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

    def plan(self, lengths: Numbers) -> RowPlan:
        """The rows of documents of these lengths."""
        room = self.longest - self.wrapping
        pieces = cut_documents(lengths, room, self.truncate, self.shortest)
        plan_rows = plan_packed if self.packed else plan_single
        return plan_rows(pieces, self.row_length, self.wrapping)


def cut_documents(lengths: Numbers, room: int, truncate: bool, shortest: int = 0) -> Pieces:
    """Make documents fit into ``room`` tokens: cut them (``truncate``), or cut them up.

    ``shortest``: documents of fewer tokens are left out. Cut up, no token is lost.
    """
    kept = np.flatnonzero((lengths > 0) & (lengths >= shortest))
    lengths = np.asarray(lengths, dtype=np.int64)[kept]
    if truncate:
        fitting = np.minimum(lengths, room)
        cut = int((lengths - fitting).sum())
        return Pieces(kept, np.zeros_like(kept), fitting, cut)
    per_document = -(-lengths // room)
    document = np.repeat(kept, per_document)
    first = np.cumsum(per_document) - per_document
    index = np.arange(len(document)) - np.repeat(first, per_document)
    start = index * room
    length = np.minimum(np.repeat(lengths, per_document) - start, room)
    return Pieces(document, start, length, 0)


def plan_packed(pieces: Pieces, row_length: int, wrapping: int, window: int = WINDOW) -> RowPlan:
    """Pack pieces into rows of ``row_length``; each takes ``wrapping`` tokens more than its own."""
    taken = pieces.length + wrapping
    rows: list[list[int]] = []
    for begin in range(0, len(taken), window):
        rows += _best_fit(taken[begin : begin + window], row_length, begin)
    return _plan(rows, pieces, row_length, wrapping)


def plan_single(pieces: Pieces, row_length: int, wrapping: int) -> RowPlan:
    """One piece per row: what unpacked batches are made of."""
    order = np.arange(len(pieces.length))
    bounds = np.arange(len(order) + 1)
    tokens = int(pieces.length.sum()) + wrapping * len(order)
    return RowPlan(pieces, order, bounds, row_length, tokens)


def _best_fit(taken: Numbers, row_length: int, offset: int) -> list[list[int]]:
    """Rows of piece numbers. ``open_sizes`` has bit r set where a row with r places left exists."""
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    open_sizes = 0
    for number in np.argsort(-taken, kind="stable").tolist():
        size = int(taken[number])
        fitting = open_sizes >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                open_sizes &= ~(1 << room)
        else:
            room, row = row_length, len(rows)
            rows.append([])
        rows[row].append(number + offset)
        left = room - size
        with_room[left].append(row)
        open_sizes |= 1 << left
    return rows


def _plan(rows: Sequence[list[int]], pieces: Pieces, row_length: int, wrapping: int) -> RowPlan:
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    order = np.array([number for row in rows for number in row], dtype=np.int64)
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    tokens = int(pieces.length.sum()) + wrapping * len(order)
    return RowPlan(pieces, order, bounds, row_length, tokens)
