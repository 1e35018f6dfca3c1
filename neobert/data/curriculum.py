"""What changes over a run, each as a pure function of a number.

A batch is a function of its step; so are its mask rate (:class:`MaskRate`) and the lengths at
which documents are cropped (:func:`crop_documents`). Nothing here has a state, so a resumed run
needs none.
"""

from dataclasses import dataclass
from math import cos, pi

import numpy as np
from numpy.typing import NDArray

from neobert.config.datacollator import DataCollatorConfig
from neobert.config.stages import place_in_run

Numbers = NDArray[np.int64]


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


def mask_rate(collator: DataCollatorConfig, total_steps: int | None) -> MaskRate:
    """The mask rate of a run: that of the place in it by ``mlm_schedule``, else the constant one,
    which is also that of evaluation (``total_steps=None``)."""
    if not collator.mlm_schedule or total_steps is None:
        return MaskRate.constant(collator.mlm_probability)
    points = {
        place_in_run(place, total_steps): float(rate)
        for place, rate in collator.mlm_schedule.items()
    }
    return MaskRate(tuple(sorted(points.items())), collator.mlm_schedule_shape)


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
    remaining = np.asarray(lengths, np.int64).copy()
    parts: list[tuple[Numbers, Numbers, Numbers, Numbers]] = []
    alive, number = np.flatnonzero(remaining > 0), 0
    while len(alive):
        drawn = _uniform(crop.seed, epoch, documents[alive], 2 * number)
        is_random = _uniform(crop.seed, epoch, documents[alive], 2 * number + 1) < crop.share
        span = crop.longest - crop.shortest + 1
        random_length = crop.shortest + (drawn * span).astype(np.int64)
        length = np.minimum(np.where(is_random, random_length, crop.longest), remaining[alive])
        start = np.asarray(lengths, np.int64)[alive] - remaining[alive]
        parts.append((alive, np.full(len(alive), number), start, length))
        remaining[alive] -= length
        alive, number = alive[remaining[alive] > 0], number + 1
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
