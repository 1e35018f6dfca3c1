"""What changes over a run, each as a pure function of a number.

A batch is a function of its step; so are its mask rate (:class:`MaskRate`), the source of each of
its rows (:class:`Mixture`) and the lengths at which documents are cropped
(:func:`crop_documents`). Nothing here has a state, so a resumed run needs none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import cos, lcm, pi

import numpy as np
from numpy.typing import NDArray

from neobert.config.stages import place_in_run

Numbers = NDArray[np.int64]

FINEST_SHARE = 100_000
"""Weights of a mixture are multiples of 1 / this; the order of sources repeats after so many rows
at the most."""


@dataclass(frozen=True, slots=True)
class MaskRate:
    """Share of the tokens to predict, by optimizer step."""

    points: tuple[tuple[int, float], ...]
    """(step, rate), ascending steps. Before the first and after the last the rate is constant."""

    shape: str = "linear"
    """Between two points: ``linear``, ``cosine`` (half a wave), or ``steps`` (the earlier rate
    holds until the later point)."""

    @classmethod
    def constant(cls, rate: float) -> "MaskRate":
        """The same rate at every step."""
        return cls(((0, rate),))

    def at(self, step: int) -> float:
        """The rate of a step."""
        later = next((i for i, (at, _) in enumerate(self.points) if at > step), len(self.points))
        if later == 0:
            return self.points[0][1]
        begin, low = self.points[later - 1]
        if later == len(self.points) or self.shape == "steps":
            return low
        end, high = self.points[later]
        progress = (step - begin) / (end - begin)
        if self.shape == "cosine":
            progress = (1 - cos(pi * progress)) / 2
        return low + (high - low) * progress

    def after(self, step: int) -> "MaskRate":
        """The same rates where steps are counted from ``step`` on."""
        return MaskRate(tuple((at - step, rate) for at, rate in self.points), self.shape)

    @property
    def highest(self) -> float:
        """Upper bound of the rate: what the number of targets of a batch is bounded by."""
        return max(rate for _, rate in self.points)


def mask_rate(
    constant: float, schedule: Mapping[str, float], shape: str, total_steps: int
) -> MaskRate:
    """The mask rate of a run: ``constant``, or what ``schedule`` (place in the run: rate) says."""
    if not schedule:
        return MaskRate.constant(constant)
    points = {place_in_run(place, total_steps): float(rate) for place, rate in schedule.items()}
    return MaskRate(tuple(sorted(points.items())), shape)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Which source each row of a run comes from.

    At every row the number of rows of each source is within one of its share, by the rule of
    Tijdeman ("The chairman assignment problem", Discrete Mathematics 32, 1980). The order repeats
    after ``sum(parts)`` rows, so a row's source needs no replay.
    """

    parts: tuple[int, ...]
    """Integer weights: rows of each source in a period."""

    sources: NDArray[np.int16]
    """Source of each row of a period."""

    ordinals: Numbers
    """Rows of the same source before it in the period."""

    @classmethod
    def of(cls, weights: tuple[float, ...]) -> "Mixture":
        """The mixture of these weights, which sum to 1 (up to rounding to 1e-5)."""
        parts = integer_parts(weights)
        sources = _sequence(parts)
        ordinals = np.zeros(len(sources), np.int64)
        for source in range(len(parts)):
            rows = np.flatnonzero(sources == source)
            ordinals[rows] = np.arange(len(rows))
        return cls(parts, sources, ordinals)

    def row(self, number: int) -> tuple[int, int]:
        """Source of row ``number`` of the run, and how many rows of that source precede it."""
        period, place = divmod(number, len(self.sources))
        source = int(self.sources[place])
        return source, period * self.parts[source] + int(self.ordinals[place])

    def counts(self, rows: int) -> list[int]:
        """Rows of each source among the first ``rows``."""
        periods, rest = divmod(rows, len(self.sources))
        begun = np.bincount(self.sources[:rest], minlength=len(self.parts))
        return [periods * part + int(more) for part, more in zip(self.parts, begun, strict=True)]


def tempered(sizes: tuple[float, ...], temperature: float) -> tuple[float, ...]:
    """Weights proportional to ``size ** temperature``: 1 keeps the sizes' shares, 0 equalises."""
    powers = [size**temperature for size in sizes]
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


@dataclass(frozen=True, slots=True)
class Crop:
    """Random lengths at which documents are cut before packing (EuroBERT, arXiv 2503.05500)."""

    shortest: int
    """Tokens of the shortest crop, special ones not counted."""

    longest: int
    """Tokens of the longest crop; also the length of what is not cropped at random."""

    share: float
    """Share of the crops with a random length, uniform from ``shortest`` to ``longest``."""

    seed: int


def crop_documents(
    documents: Numbers, lengths: Numbers, crop: Crop, epoch: int
) -> tuple[Numbers, Numbers, Numbers]:
    """Cut documents at lengths drawn from (seed, epoch, document, number of the crop).

    Returns the document, first token and number of tokens of each crop, in the order of the
    documents. Every token is in exactly one crop; a document's last crop is what is left.
    """
    left = np.asarray(lengths, np.int64).copy()
    parts: list[tuple[Numbers, Numbers, Numbers, Numbers]] = []
    alive, number = np.flatnonzero(left > 0), 0
    while len(alive):
        drawn = _uniform(crop.seed, epoch, documents[alive], 2 * number)
        is_random = _uniform(crop.seed, epoch, documents[alive], 2 * number + 1) < crop.share
        span = crop.longest - crop.shortest + 1
        random_length = crop.shortest + (drawn * span).astype(np.int64)
        length = np.minimum(np.where(is_random, random_length, crop.longest), left[alive])
        start = np.asarray(lengths, np.int64)[alive] - left[alive]
        parts.append((alive, np.full(len(alive), number), start, length))
        left[alive] -= length
        alive, number = alive[left[alive] > 0], number + 1
    if not parts:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    index, numbers, start, length = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((numbers, index))
    return documents[index[order]], start[order], length[order]


def _uniform(seed: int, epoch: int, documents: Numbers, number: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) by a hash of the arguments (SplitMix64's mixing, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = np.full(len(documents), seed, np.uint64)
        for part in (np.uint64(epoch), np.asarray(documents).astype(np.uint64), np.uint64(number)):
            mixed = _mix((mixed ^ part) + np.uint64(0x9E3779B97F4A7C15))
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
