"""Which source each row of a run comes from, as a pure function of the row's number.

At every row the number of rows of each source is within one of its share, by the rule of Tijdeman
("The chairman assignment problem", Discrete Mathematics 32, 1980). Each source counts its rows by
itself: where the weights change, every source continues with its next row.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm

import numpy as np
from numpy.typing import NDArray

FINEST_SHARE = 100_000
"""Weights of a mixture are multiples of 1 / this; the order of sources repeats after so many rows
at the most."""


@dataclass(frozen=True, slots=True, eq=False)
class MixtureSpan:
    """The rows of a run from ``first`` on, under the same weights. Their sources repeat after
    ``sum(parts)`` rows, so a row's source needs no replay."""

    first: int
    before: tuple[int, ...]
    """Rows of each source before ``first``."""

    parts: tuple[int, ...]
    """Integer weights: rows of each source in a period."""

    sources: NDArray[np.int16]
    """Source of each row of a period."""

    ordinals: NDArray[np.int64]
    """Rows of the same source before it in the period."""


@dataclass(frozen=True, slots=True)
class SourceOrder:
    """Source of each row of a run, and its number among the rows of that source."""

    spans: tuple[MixtureSpan, ...]

    @classmethod
    def of(cls, changes: Iterable[tuple[int, tuple[float, ...]]]) -> "SourceOrder":
        """The order under (first row, weights), ascending, from row 0 on.

        Weights sum to 1 (up to rounding to 1e-5).
        """
        order = cls(())
        for first, weights in changes:
            parts = integer_parts(weights)
            if order.spans and order.spans[-1].parts == parts:
                continue
            before = order.counts(first) if order.spans else [0] * len(parts)
            span = MixtureSpan(first, tuple(before), parts, *_period(parts))
            order = cls((*order.spans, span))
        return order

    def row(self, number: int) -> tuple[int, int]:
        """Source of row ``number`` of the run, and how many rows of that source precede it."""
        span = self._span(number)
        period, place = divmod(number - span.first, len(span.sources))
        source = int(span.sources[place])
        earlier = span.before[source] + period * span.parts[source]
        return source, earlier + int(span.ordinals[place])

    def counts(self, number: int) -> list[int]:
        """Rows of each source before row ``number`` of the run."""
        span = self._span(number)
        periods, rest = divmod(number - span.first, len(span.sources))
        begun = np.bincount(span.sources[:rest], minlength=len(span.parts)).tolist()
        each = zip(span.before, span.parts, begun, strict=True)
        return [before + periods * part + more for before, part, more in each]

    def of_rows(self, first: int, count: int) -> NDArray[np.int16]:
        """Source of each of ``count`` rows from row ``first`` of the run on."""
        span = self._span(first)
        later = (other.first for other in self.spans if other.first > first)
        within = min(count, next(later, first + count) - first)
        numbers = np.arange(first - span.first, first - span.first + within)
        sources = span.sources[numbers % len(span.sources)]
        if within == count:
            return sources
        return np.concatenate([sources, self.of_rows(first + within, count - within)])

    def _span(self, number: int) -> MixtureSpan:
        return self.spans[bisect_right(self.spans, number, key=lambda span: span.first) - 1]


def tempered(sizes: tuple[float, ...], temperature: float) -> tuple[float, ...]:
    """Weights proportional to ``size ** temperature``: 1 keeps the sizes' shares, 0 equalises. A
    size of 0 has the weight 0."""
    powers = [size**temperature if size else 0.0 for size in sizes]
    return tuple(power / sum(powers) for power in powers)


def integer_parts(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Integers in the proportion of ``weights``, with the smallest sum.

    Weights that are no multiples of 1 / ``FINEST_SHARE`` are rounded to such (largest remainder).
    """
    exact = [Fraction(repr(float(weight))) for weight in weights]
    total = sum(exact)
    shares = [weight / total for weight in exact]
    period = lcm(*(share.denominator for share in shares))
    if period > FINEST_SHARE:
        period = FINEST_SHARE
        floors = [int(share * period) for share in shares]
        by_remainder = sorted(
            range(len(shares)), key=lambda i: shares[i] * period - floors[i], reverse=True
        )
        for i in by_remainder[: period - sum(floors)]:
            floors[i] += 1
        return tuple(floors)
    return tuple(int(share * period) for share in shares)


@lru_cache(maxsize=32)
def _period(parts: tuple[int, ...]) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Source of each row of a period, and how many rows of that source precede it there."""
    sources = _sequence(parts)
    ordinals = np.zeros(len(sources), np.int64)
    for source in range(len(parts)):
        rows = np.flatnonzero(sources == source)
        ordinals[rows] = np.arange(len(rows))
    return sources, ordinals


def _sequence(parts: tuple[int, ...]) -> NDArray[np.int16]:
    """Sources of a period. Among those that are due, the one whose deadline is next."""
    period, count = sum(parts), len(parts)
    if count == 1:
        return np.zeros(period, np.int16)
    slack = 2 * count - 2
    sequence = np.zeros(period, np.int16)
    behind = [0] * count  # part · rows so far - period · rows of the source, before this row
    for place in range(period):
        behind = [lag + part for lag, part in zip(behind, parts, strict=True)]
        due = [i for i in range(count) if behind[i] * slack >= period]
        limit = period * (slack - 1) / slack
        chosen = min(due, key=lambda i: (limit - behind[i]) / parts[i])
        sequence[place] = chosen
        behind[chosen] -= period
    return sequence


ONE_SOURCE = SourceOrder.of([(0, (1.0,))])
"""The order of a run with one source."""
