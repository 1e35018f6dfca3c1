"""What a contrastive step gets: texts laid end to end, and who belongs to whom.

Letters: S texts, B pairs, N hard negatives of them all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neobert.batch import PackedBatch, TensorBatch


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a packed batch, by host numbers: cutting one out waits for no device."""

    first_text: int
    end_text: int
    first_token: int
    end_token: int
    longest: int


@dataclass(frozen=True, slots=True)
class Texts(TensorBatch):
    """Texts by ascending length, in chunks that are encoded one at a time."""

    packed: PackedBatch
    chunks: tuple[Chunk, ...]
    places: Int[Tensor, " S"]
    """Where each text, in the order it was given, is in ``packed``."""

    spare_passes: int = 0
    """Chunks that only other ranks have: under some strategies the ranks meet in each."""

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], chunk_size: int | None = None) -> "Texts":
        """Lay out ``texts`` (lists of ids), ``chunk_size`` of them at a time (``None``: all)."""
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        order = np.argsort(lengths, kind="stable")
        packed = PackedBatch.from_documents([list(texts[place]) for place in order])
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order))
        ends = np.cumsum(lengths[order])
        size = chunk_size or len(texts)
        chunks = []
        for first in range(0, len(texts), size):
            last = min(first + size, len(texts))
            start = int(ends[first - 1]) if first else 0
            longest = int(lengths[order[last - 1]])
            chunks.append(Chunk(first, last, start, int(ends[last - 1]), longest))
        return cls(packed, tuple(chunks), torch.from_numpy(places))

    def parts(self) -> list[PackedBatch]:
        """The chunks as batches; the first once more for each spare pass."""
        if len(self.chunks) == 1:
            parts = [self.packed]
        else:
            parts = [
                PackedBatch(
                    input_ids=self.packed.input_ids[chunk.first_token : chunk.end_token],
                    position_ids=self.packed.position_ids[chunk.first_token : chunk.end_token],
                    cu_seqlens=self.packed.cu_seqlens[chunk.first_text : chunk.end_text + 1]
                    - chunk.first_token,
                    max_seqlen=chunk.longest,
                    num_tokens=chunk.end_token - chunk.first_token,
                )
                for chunk in self.chunks
            ]
        return parts + parts[:1] * self.spare_passes


@dataclass(frozen=True, slots=True)
class PairBatch(TensorBatch):
    """Pairs of one source: B queries, then their B positives, then N hard negatives."""

    texts: Texts
    query_texts: Int[Tensor, " B"]
    """Hashes of the queries' texts."""

    document_texts: Int[Tensor, " documents"]
    """Hashes of the texts of positives and negatives."""

    groups: Int[Tensor, " B"]
    """Hash of the class, or of the query where there are no classes."""

    source: str

    documents_of_ranks: tuple[int, ...] | None = None
    """Documents in each rank's batch of the same number; ``None`` if this rank is the only one."""

    @property
    def num_pairs(self) -> int:
        return len(self.query_texts)

    def among(self, documents: Sequence[int], chunk_size: int | None) -> "PairBatch":
        """The batch with the number of ``documents`` in each rank's batch of the same number."""
        most = self.num_pairs + max(documents)
        passes = math.ceil(most / (chunk_size or most))
        texts = replace(self.texts, spare_passes=passes - len(self.texts.chunks))
        return replace(self, texts=texts, documents_of_ranks=tuple(documents))


@dataclass(frozen=True, slots=True)
class TwiceBatch(TensorBatch):
    """Texts that are encoded twice, for unsupervised SimCSE."""

    texts: Texts
    numbers: Int[Tensor, " B"]
    """Hashes of the texts."""
