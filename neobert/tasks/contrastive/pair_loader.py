"""Micro-batches by their number: a pure function of (pairs on disk, settings, seed, number).

Which source a micro-batch takes, and whether it is a pretraining step, is drawn for the whole run
beforehand; so its rows are known without having been through the run, and the place of a run in its
data is one number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset as ArrowDataset
from numpy.typing import NDArray
from torch.utils.data import Dataset

from neobert.batch import MaskedBatch
from neobert.data.order import generator
from neobert.data.steps import Share
from neobert.data.token_rows import Row, RowMaker
from neobert.tasks.contrastive.batches import PairBatch, Texts, TwiceBatch
from neobert.tasks.contrastive.pair_encoder import text_number
from neobert.tasks.contrastive.prepared_pairs import Corpus

AnyBatch = PairBatch | TwiceBatch | MaskedBatch
SOURCES, ROWS, NEGATIVES, TEXTS = 1, 2, 3, 4
"""What random numbers are for; part of their seeds, so that no two uses share a stream."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What each micro-batch of the run is made from, on all ranks alike."""

    source: NDArray[np.int16]
    is_pretraining: NDArray[np.bool_]
    turn: NDArray[np.int64]
    """How many earlier micro-batches took their rows from the same place."""

    @classmethod
    def of(
        cls, sizes: Sequence[int], alpha: float, pretraining: float, seed: int, count: int
    ) -> "Draws":
        """Draw ``count`` micro-batches: pretraining with probability ``pretraining``, else a source
        with probability proportional to size ** alpha."""
        coins, picks = (generator(seed, SOURCES, part).random(count) for part in (0, 1))
        shares = np.array(sizes, dtype=np.float64) ** alpha
        edges = np.cumsum(shares / shares.sum())
        source = np.searchsorted(edges[:-1], picks, side="right").astype(np.int16)
        is_pretraining = coins < pretraining
        turn = np.zeros(count, dtype=np.int64)
        for number in range(len(sizes)):
            for kind in (False, True):
                mine = (source == number) & (is_pretraining == kind)
                turn[mine] = np.arange(mine.sum())
        return cls(source, is_pretraining, turn)


@dataclass(slots=True)
class PairRows:
    """The training pairs of a source, and the order in which each epoch goes through them."""

    name: str
    table: ArrowDataset
    rows: NDArray[np.int64]
    """Row numbers of the training pairs."""

    seed: int
    _epoch: int = -1
    _order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def chosen(self, turn: int, share: Share) -> list[int]:
        """Rows of this rank's micro-batch: the ranks' are neighbours, none in two of an epoch.

        A source with fewer pairs than a batch over all ranks gives smaller ones. What an epoch
        leaves over is left to the next, which has another order.
        """
        size = min(share.batch_size, len(self.rows) // share.ranks)
        together = size * share.ranks
        epoch, place = divmod(turn, len(self.rows) // together)
        if epoch != self._epoch:
            order = generator(self.seed, ROWS, epoch).permutation(len(self.rows))
            self._epoch, self._order = epoch, order
        first = place * together + share.rank * size
        return self.rows[self._order[first : first + size]].tolist()

    def read(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Rows of the table."""
        return self.table.select(rows).to_list()


@dataclass(frozen=True)
class Batches(Dataset[AnyBatch]):
    """Micro-batches of a run by their number; what loader processes compute."""

    sources: Sequence[PairRows]
    draws: Draws
    share: Share
    seed: int
    hard_negatives: int
    """Of each row's negatives so many at most."""

    chunk_size: int | None = None
    corpus: Sequence[Sequence[int]] | Corpus | None = None
    """Texts of pretraining steps; ``None``: those of the pairs."""

    masker: RowMaker | None = None
    """For MLM steps; ``None``: pretraining steps are unsupervised SimCSE."""

    def __getitem__(self, number: int) -> AnyBatch:
        source = self.sources[self.draws.source[number]]
        turn, key = int(self.draws.turn[number]), number * self.share.ranks + self.share.rank
        if not self.draws.is_pretraining[number]:
            return self._pairs(source.read(source.chosen(turn, self.share)), source.name, key)
        if self.corpus is None:
            texts = [row["positive"] for row in source.read(source.chosen(turn, self.share))]
        else:
            draw = generator(self.seed, TEXTS, key)
            places = draw.choice(len(self.corpus), self.share.batch_size)
            texts = [self.corpus[int(place)] for place in places]
        if self.masker is None:
            numbers = [text_number(repr(list(text))) for text in texts]
            return TwiceBatch(Texts.of(texts, self.chunk_size), torch.tensor(numbers))
        step = number // self.share.accumulation
        masked = []
        for place, text in enumerate(texts):
            row = Row(np.array(text, dtype=np.int64), [len(text)], len(text))
            masked.append(self.masker.mask(row, key * len(texts) + place, step))
        return self.masker.batch(masked)

    def _pairs(self, rows: Sequence[dict[str, Any]], source: str, key: int) -> PairBatch:
        draw = generator(self.seed, NEGATIVES, key)
        negatives: list[list[int]] = []
        numbers: list[int] = []
        for row in rows:
            stored = row["negatives"]
            count = min(self.hard_negatives, len(stored))
            for place in draw.choice(len(stored), count, replace=False) if count else ():
                negatives.append(stored[place])
                numbers.append(row["negative_texts"][place])
        queries, positives = ([row[name] for row in rows] for name in ("query", "positive"))
        return PairBatch(
            texts=Texts.of([*queries, *positives, *negatives], self.chunk_size),
            query_texts=_numbers(rows, "query_text"),
            document_texts=torch.cat(
                [_numbers(rows, "positive_text"), torch.tensor(numbers).long()]
            ),
            groups=_numbers(rows, "group"),
            source=source,
        )


def _numbers(rows: Sequence[dict[str, Any]], name: str) -> torch.Tensor:
    return torch.tensor([row[name] for row in rows], dtype=torch.int64)
