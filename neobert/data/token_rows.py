"""Rows of tokens: documents laid out with their special tokens, masked, and joined to batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neobert.batch import IGNORE, MaskedBatch, PackedBatch
from neobert.data.masking import Masking, mask_row
from neobert.data.order import EMPTY
from neobert.data.packing import Packing, RowPlan
from neobert.data.token_store import TokenStore
from neobert.data.tokenizer import TokenizerInfo

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """A row before masking."""

    ids: Ids
    lengths: list[int]
    """Tokens of its documents; padding is the last one."""

    text: int
    """Tokens before the padding."""


@dataclass(frozen=True, slots=True)
class MaskedRow(Row):
    """A row after masking: what loader processes compute."""

    positions: Ids
    """Where a token is to be predicted, ascending."""

    labels: Ids
    """The original ids there."""


@dataclass(frozen=True, slots=True)
class RowMaker:
    """Makes rows of documents, and micro-batches of rows."""

    tokenizer: TokenizerInfo
    masking: Masking
    packing: Packing

    def lay_out(self, documents: Sequence[NDArray[np.unsignedinteger]]) -> Row:
        """A row of these documents, each opened and closed; padded if rows are packed."""
        info, length = self.tokenizer, self.packing.row_length
        opened = [] if info.text.start_id is None else [info.text.start_id]
        closed = [] if info.text.end_id is None else [info.text.end_id]
        parts: list[Ids] = []
        for tokens in documents:
            parts.append(np.concatenate([opened, tokens, closed]).astype(np.int64))
        lengths = [len(part) for part in parts]
        text = sum(lengths)
        if self.packing.packed and text < length:
            parts.append(np.full(length - text, info.pad_token_id, dtype=np.int64))
            lengths.append(length - text)
        return Row(np.concatenate(parts) if parts else np.zeros(0, np.int64), lengths, text)

    def mask(self, row: Row, key: int, step: int) -> MaskedRow:
        """``row`` as it is masked where it has the number ``key`` in the run, for ``step``."""
        maskable = ~self.tokenizer.is_special[row.ids]
        maskable[row.text :] = False
        corrupted, positions = mask_row(row.ids, maskable, self.masking, key, step)
        return MaskedRow(corrupted, row.lengths, row.text, positions, row.ids[positions])

    def batch(self, rows: Sequence[MaskedRow]) -> MaskedBatch:
        """The micro-batch of these rows."""
        ids = np.concatenate([row.ids for row in rows])
        lengths = np.array([size for row in rows for size in row.lengths], dtype=np.int64)
        ends = np.cumsum([len(row.ids) for row in rows])
        starts = [end - len(row.ids) for end, row in zip(ends, rows, strict=True)]
        positions = [row.positions + start for row, start in zip(rows, starts, strict=True)]
        labels = [row.labels for row in rows]
        targets = sum(map(len, labels))
        row_length = self.packing.row_length if self.packing.packed else None
        if row_length is not None:
            # A fixed number of places for targets; positions of the filler are not read.
            filler = len(rows) * self.masking.most_targets(row_length) - targets
            positions.append(np.zeros(filler, np.int64))
            labels.append(np.full(filler, IGNORE, np.int64))
        elif padding := -len(ids) % self.packing.multiple:
            ids = np.concatenate([ids, np.full(padding, self.tokenizer.pad_token_id)])
            lengths = np.append(lengths, padding)
        inputs = PackedBatch.from_lengths(
            torch.from_numpy(ids),
            torch.from_numpy(lengths),
            num_tokens=sum(row.text for row in rows),
            row_length=row_length,
        )
        return MaskedBatch(
            inputs,
            torch.from_numpy(np.concatenate(positions)),
            torch.from_numpy(np.concatenate(labels)),
            targets,
        )


@dataclass(frozen=True, slots=True)
class TokenRows:
    """The rows that a plan makes of a token store, laid out and masked on demand."""

    store: TokenStore
    plan: RowPlan
    maker: RowMaker

    def batch(self, rows: Sequence[int], keys: Sequence[int], step: int = 0) -> MaskedBatch:
        """The micro-batch of these rows, masked under these keys at the rate of ``step``."""
        maker = self.maker
        masked = [
            maker.mask(self.lay_out(row), key, step) for row, key in zip(rows, keys, strict=True)
        ]
        return maker.batch(masked)

    def lay_out(self, row: int) -> Row:
        """A row before masking; ``EMPTY`` gives one of padding."""
        pieces = [] if row == EMPTY else self.plan.row(row)
        return self.maker.lay_out(
            [self.store.document(number)[start : start + size] for number, start, size in pieces]
        )
