"""Which tokens of a row are to be predicted, and what the model sees there instead.

BERT's corruption (arXiv 1810.04805, section 3.1): 80 % ``[MASK]``, 10 % a random word, 10 % left as
it is; or ``[MASK]`` always (NeoBERT). The generator is keyed by (seed, row), so a row's mask
depends neither on workers nor on ranks nor on restarts. The number of targets of a row is fixed up
to rounding, which keeps the number per batch nearly static; each token is a target with probability
``mlm_probability``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Masking:
    """How a run masks."""

    probability: float
    mask_all: bool
    mask_id: int
    random_ids: Ids
    """Ids that may replace a token: neither special nor inert."""

    seed: int

    def most_targets(self, places: int) -> int:
        """Upper bound of the targets among ``places`` tokens of one row."""
        return int(np.ceil(self.probability * places))


def mask_row(ids: Ids, maskable: NDArray[np.bool_], masking: Masking, row: int) -> tuple[Ids, Ids]:
    """Corrupted copy of ``ids`` and the positions to predict, ascending.

    ``maskable`` is false at special tokens and padding; ``row`` is the row's number in the run.
    """
    draw = np.random.Generator(np.random.Philox(key=[masking.seed, row]))
    places = np.flatnonzero(maskable)
    expected = masking.probability * len(places)
    count = int(expected) + (draw.random() < expected - int(expected))
    chosen = np.sort(draw.choice(places, size=count, replace=False))
    corrupted = ids.copy()
    if masking.mask_all:
        corrupted[chosen] = masking.mask_id
        return corrupted, chosen
    fate = draw.random(count)
    corrupted[chosen[fate < 0.8]] = masking.mask_id
    random = chosen[(fate >= 0.8) & (fate < 0.9)]
    corrupted[random] = draw.choice(masking.random_ids, size=len(random))
    return corrupted, chosen
