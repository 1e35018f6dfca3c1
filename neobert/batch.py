"""What the encoder takes, in every task: documents laid end to end, without padding between them.

Letters: T tokens of all documents together, S documents, L the longest of them, K targets (masked
positions).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

IGNORE = -100
"""Label of a position that is not predicted; the value PyTorch's cross-entropy skips."""

Whole = TypeVar("Whole", bound="TensorBatch")
Part: TypeAlias = "Tensor | TensorBatch"


@dataclass(frozen=True, slots=True)
class TensorBatch:
    """What every batch can do: move as a whole. The loaders of PyTorch and Lightning look for these
    methods."""

    def to(self: Whole, device: torch.device | str, non_blocking: bool = False) -> Whole:
        """Copy the tensors to ``device``."""
        return self._moved(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self: Whole) -> Whole:
        """Move the tensors to page-locked memory."""
        return self._moved(lambda part: part.pin_memory())

    def _moved(self: Whole, move: "Callable[[Part], Part]") -> Whole:
        parts = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(
            self,
            **{
                name: move(part)
                for name, part in parts.items()
                if isinstance(part, Tensor | TensorBatch)
            },
        )


@dataclass(frozen=True, slots=True)
class PackedBatch(TensorBatch):
    """Documents laid end to end along one token axis.

    Document ``i`` covers tokens ``cu_seqlens[i]`` to ``cu_seqlens[i + 1]``; attention never crosses
    its ends and its positions start at 0. An unpacked batch is the same thing with one document per
    row; a packed one has ``T = rows * row_length`` tokens and no document crosses a multiple of
    ``row_length``. What is left of a packed row is one more document, of pad ids.
    """

    input_ids: Int[Tensor, " T"]
    position_ids: Int[Tensor, " T"]
    """0-based position of each token within its document."""

    cu_seqlens: Int[Tensor, " bounds"]
    """int32, S + 1 bounds: 0 first, T last. Equal neighbours are empty documents."""

    max_seqlen: int
    """Length of the longest document; an upper bound is allowed (fixed under ``torch.compile``)."""

    num_tokens: int
    """Tokens of text: T less the pad ids."""

    row_length: int | None = None
    """Length of a packed row; ``None`` for unpacked batches, whose T varies."""

    @classmethod
    def from_lengths(
        cls,
        input_ids: Int[Tensor, " T"],
        lengths: Int[Tensor, " S"],
        num_tokens: int | None = None,
        row_length: int | None = None,
    ) -> "PackedBatch":
        """The batch of documents of these ``lengths`` (int64, on the CPU), laid end to end.

        ``num_tokens``: tokens of text, by default all T. ``row_length``: of packed rows.
        """
        longest = int(lengths.max()) if len(lengths) else 0
        return cls(
            input_ids=input_ids,
            position_ids=positions_within(lengths).to(input_ids.device),
            cu_seqlens=bounds_of(lengths).to(input_ids.device),
            max_seqlen=longest if row_length is None else row_length,
            num_tokens=len(input_ids) if num_tokens is None else num_tokens,
            row_length=row_length,
        )

    @classmethod
    def from_documents(
        cls, documents: list[list[int]], pad_token_id: int = 0, multiple: int = 1
    ) -> "PackedBatch":
        """Lay ``documents`` (lists of ids) end to end, unpacked: no padding between them.

        Up to a multiple of ``multiple`` tokens, one more document of pad ids follows.
        """
        num_tokens = sum(map(len, documents))
        if slack := -num_tokens % multiple:
            documents = [*documents, [pad_token_id] * slack]
        lengths = torch.tensor([len(document) for document in documents], dtype=torch.int64)
        flat = [token for document in documents for token in document]
        return cls.from_lengths(torch.tensor(flat, dtype=torch.int64), lengths, num_tokens)

    @property
    def lengths(self) -> Int[Tensor, " S"]:
        """Number of tokens of each document, those of pad ids included."""
        return self.cu_seqlens.diff()


@dataclass(frozen=True, slots=True)
class PaddedBatch(TensorBatch):
    """What a model of transformers takes."""

    input_ids: Int[Tensor, "S L"]
    attention_mask: Int[Tensor, "S L"]
    token_type_ids: Int[Tensor, "S L"] | None
    """``None`` where the model knows no segments."""

    num_tokens: int
    """Tokens of text."""

    def by_length(self, size: int) -> "list[tuple[Int[Tensor, ' rows'], PaddedBatch]]":
        """Groups of ``size`` documents of like length, each without the columns that it pads whole.

        With each group come its rows in this batch. A model says the same of a document in its
        group as in the batch, for less: two of three tokens of an SST-2 batch of 32 are padding,
        in groups of eight it is one of four.
        """
        lengths = self.attention_mask.sum(1)
        return [
            (rows, self._cut(rows, int(lengths[rows].max())))
            for rows in lengths.argsort().split(size)
        ]

    def _cut(self, rows: Int[Tensor, " rows"], length: int) -> "PaddedBatch":
        types = self.token_type_ids
        mask = self.attention_mask[rows, :length]
        return PaddedBatch(
            input_ids=self.input_ids[rows, :length],
            attention_mask=mask,
            token_type_ids=None if types is None else types[rows, :length],
            num_tokens=int(mask.sum()),
        )

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[NDArray[np.int64]],
        pad_token_id: int,
        multiple: int = 1,
        row_length: int | None = None,
        types: Sequence[NDArray[np.int64]] | None = None,
    ) -> "PaddedBatch":
        """A row per document of ids, padded on the right.

        Rows are as long as the longest document, or ``row_length``, up to a multiple of
        ``multiple``. ``types``: the segment of each token.
        """
        longest = row_length or max(map(len, documents))
        longest += -longest % multiple
        ids = np.full((len(documents), longest), pad_token_id)
        mask, segments = np.zeros_like(ids), np.zeros_like(ids)
        for place, document in enumerate(documents):
            ids[place, : len(document)] = document
            mask[place, : len(document)] = 1
            if types is not None:
                segments[place, : len(document)] = types[place]
        return cls(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            token_type_ids=None if types is None else torch.from_numpy(segments),
            num_tokens=int(mask.sum()),
        )


@dataclass(frozen=True, slots=True)
class MaskedBatch(TensorBatch):
    """A micro-batch of masked-language modelling: corrupted inputs and what stood there before."""

    inputs: PackedBatch
    positions: Int[Tensor, " K"]
    """Where a token is to be predicted: indices into the T tokens. int64."""

    labels: Int[Tensor, " K"]
    """The original ids at ``positions``. ``IGNORE`` marks filler rows that keep K fixed."""

    num_targets: int
    """Labels of this micro-batch that are not ``IGNORE``."""

    num_targets_in_step: int = 0
    """Targets of the whole optimizer step: all micro-batches of it, on all ranks. 0 until the
    loader has counted them (and in evaluation, where sums are divided at the end)."""


def bounds_of(lengths: Int[Tensor, " S"]) -> Int[Tensor, " bounds"]:
    """Cumulative bounds of documents of these lengths, int32, 0 first."""
    bounds = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    bounds[1:] = lengths.cumsum(0)
    return bounds


def positions_within(lengths: Int[Tensor, " S"]) -> Int[Tensor, " T"]:
    """0, 1, … of each document in turn, int64."""
    ends = lengths.cumsum(0)
    starts = torch.repeat_interleave(ends - lengths, lengths)
    return torch.arange(int(lengths.sum())) - starts
