"""Which reader of which stream makes each row of a run.

One stream: the rows are dealt from its readers in rotation. In a mixture the row's number gives the
source (:class:`~neobert.data.mixture.SourceOrder`), and that order has a rhythm of its own: a rank,
which makes every n-th row, would meet all readers of a source. So the rows of a step are dealt to
*lanes*, row ``i`` of the step to lane ``i mod lanes``, and each reader makes rows of the same lanes
throughout. Within each run of as many rows as there are lanes, the sources keep their numbers of
rows and are dealt to the lanes such that each source takes from its readers evenly.
"""

from collections.abc import Sequence
from heapq import heapify, heapreplace
from itertools import accumulate
from math import gcd, lcm
from typing import TypeAlias

import numpy as np

from neobert.data.mixture import SourceOrder


class ReaderRotation:
    """The readers of one stream: row ``g`` is the next row of reader ``g mod readers``."""

    def __init__(self, readers: int) -> None:
        self.readers = readers

    def row(self, number: int) -> tuple[int, int]:
        """The reader of a row of the run, and how many rows of that reader precede it."""
        index, reader = divmod(number, self.readers)
        return reader, index

    def rows_before(self, number: int) -> list[int]:
        """Rows of each reader before row ``number``."""
        return [-(-(number - reader) // self.readers) for reader in range(self.readers)]


class DealtReaders:
    """The readers of a mixture, counted over all streams, from the first row of a step on.

    A lane takes rows of a source from the readers whose number is the lane's modulo what both
    counts have in common: from those of no other lane, where the lanes divide the readers. Of
    these, the reader with the fewest rows is next. Where the number of ranks divides the readers of
    a source, it divides the lanes, too, so each of its readers runs in one rank.
    """

    def __init__(
        self,
        sources: SourceOrder,
        readers: Sequence[int],
        rows_per_step: int,
        first: int = 0,
        taken: Sequence[int] | None = None,
    ) -> None:
        """``readers`` of each source; ``taken``: rows of each reader before row ``first``."""
        self.sources = sources
        self.lanes = gcd(lcm(*readers), rows_per_step)
        self._first_readers = list(accumulate(readers, initial=0))
        self._shared = [gcd(count, self.lanes) for count in readers]
        """Of each source: lanes with readers of their own."""

        rows = [0] * self._first_readers[-1] if taken is None else list(taken)
        bounds = zip(self._first_readers, readers, self._shared, strict=False)
        self._queues = [
            [
                [(rows[reader], reader) for reader in range(start + lane, start + count, shared)]
                for lane in range(shared)
            ]
            for start, count, shared in bounds
        ]
        """Of each source and lane, its readers with their rows, as a heap."""

        for queues in self._queues:
            for queue in queues:
                heapify(queue)
        self._rows = [
            [sum(count for count, _ in queue) for queue in queues] for queues in self._queues
        ]
        self._first = self._stop = first
        self._dealt: list[tuple[int, int]] = []

    def row(self, number: int) -> tuple[int, int]:
        """The reader of a row of the run, and how many rows of that reader precede it. Rows before
        the last one that was requested may be out of reach."""
        while number >= self._stop:
            self._deal()
        return self._dealt[number - self._first]

    def rows_before(self, number: int) -> list[int]:
        """Rows of each reader before row ``number``, the first of a step that is not behind."""
        while number > self._stop:
            self._deal()
        assert number == self._stop, "not the first row of a step, or behind"
        queues = (queue for queues in self._queues for queue in queues)
        rows = {reader: count for queue in queues for count, reader in queue}
        return [rows[reader] for reader in range(self._first_readers[-1])]

    def _deal(self) -> None:
        """The next rows, one of each lane. The sources whose readers differ most choose first."""
        self._first = self._stop
        self._stop += self.lanes
        sources = self.sources.of_rows(self._first, self.lanes)
        counts = np.bincount(sources, minlength=len(self._queues)).tolist()
        present = [source for source, count in enumerate(counts) if count]
        present.sort(key=lambda source: min(self._rows[source]) - max(self._rows[source]))
        dealt: dict[int, int] = {}
        free = list(range(self.lanes))
        for source in present:
            free.sort(key=self._rows_by_lane(source).__getitem__)
            dealt |= dict.fromkeys(free[: counts[source]], source)
            free = sorted(free[counts[source] :])
        self._dealt = [self._take(dealt[lane], lane) for lane in range(self.lanes)]

    def _rows_by_lane(self, source: int) -> list[int]:
        """How many rows of a source the readers of each lane have made."""
        rows, shared = self._rows[source], self._shared[source]
        if shared == self.lanes:
            return rows
        turns = self.lanes // shared  # the lanes of the same readers take turns
        return [
            count + (lane // shared - count) % turns
            for lane in range(self.lanes)
            for count in [rows[lane % shared]]
        ]

    def _take(self, source: int, lane: int) -> tuple[int, int]:
        place = lane % self._shared[source]
        queue = self._queues[source][place]
        count, reader = queue[0]
        heapreplace(queue, (count + 1, reader))
        self._rows[source][place] += 1
        return reader, count


ReaderOrder: TypeAlias = ReaderRotation | DealtReaders
