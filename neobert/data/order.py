"""The order in which a run goes through indexed rows, addressable without an array of all rows.

An epoch permutes blocks of neighbouring rows, joins ``TOGETHER`` blocks that follow each other to a
group, and permutes the rows of each group. A row's place so takes the memory of one group and one
number per block, and rows that are neighbours on disk are read at about the same time. Data of one
group (65,536 rows) is permuted as a whole. MosaicML's Streaming does the same to samples
(``py1br``: blocks within a shuffled list of shards).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

EMPTY = -1
"""Number of a row that is all padding."""

BLOCK = 1 << 10
"""Rows that are neighbours before shuffling and stay in the same group."""

TOGETHER = 1 << 6
"""Blocks whose rows are shuffled together."""

GROUP = BLOCK * TOGETHER

VERSION = 2
"""Of the order: part of the fingerprint that a resumed run is compared with."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order in which a run goes through its rows."""

    num_rows: int
    seed: int
    rows_per_step: int
    whole_steps: bool = True
    """Steps run on into the next epoch (true), or the last step of an epoch is filled up with empty
    rows (false)."""

    @property
    def rows_per_epoch(self) -> int:
        """Row numbers of an epoch, empty ones included."""
        if self.whole_steps:
            return self.num_rows
        return -(-self.num_rows // self.rows_per_step) * self.rows_per_step

    def row(self, number: int) -> int:
        """The row with this number in the run; ``EMPTY`` where an epoch is filled up."""
        epoch, place = divmod(number, self.rows_per_epoch)
        if place >= self.num_rows:
            return EMPTY
        # The group with the last block, which is shorter than the others, has fewer rows: behind
        # it, count as if it had them all.
        missing = -self.num_rows % BLOCK
        _, short = _blocks(self.num_rows, self.seed, epoch)
        if place >= (short // TOGETHER + 1) * GROUP - missing:
            place += missing
        group, within = divmod(place, GROUP)
        return int(_rows_of_group(self.num_rows, self.seed, epoch, group)[within])


@lru_cache(maxsize=2)
def _blocks(num_rows: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], int]:
    """The order of the blocks in an epoch, and the place of the last, shorter one."""
    blocks = generator(seed, epoch).permutation(-(-num_rows // BLOCK))
    return blocks, int(np.flatnonzero(blocks == len(blocks) - 1)[0])


@lru_cache(maxsize=4)
def _rows_of_group(num_rows: int, seed: int, epoch: int, group: int) -> NDArray[np.int64]:
    """The rows of a group of blocks in their order."""
    blocks, _ = _blocks(num_rows, seed, epoch)
    chosen = blocks[group * TOGETHER : (group + 1) * TOGETHER]
    rows = (chosen[:, None] * BLOCK + np.arange(BLOCK)).ravel()
    rows = rows[rows < num_rows]
    return generator(seed, epoch, group).permutation(rows)


def generator(*key: int) -> np.random.Generator:
    """A generator of random numbers that depends on ``key`` alone."""
    return np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(key)))
