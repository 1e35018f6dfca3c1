"""Labelled documents: those of a split, and those of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Num
from numpy.typing import NDArray
from torch import Tensor

from neobert.batch import PackedBatch, PaddedBatch, TensorBatch


@dataclass(frozen=True, slots=True)
class LabelledBatch(TensorBatch):
    """Documents and their labels. What fills a batch up stands after the labelled documents."""

    inputs: PackedBatch | PaddedBatch
    labels: Num[Tensor, " labelled"] | Num[Tensor, "labelled classes"]
    """int64 classes; float32 numbers in regression, and 0 or 1 for each of several labels; -1 where
    a test set has none."""

    rows: Int[Tensor, " labelled"]
    """Place of each document in its split."""

    num_targets_in_step: int = 0
    """Labelled documents of the whole optimizer step, on all ranks; 0 in evaluation."""

    @property
    def num_examples(self) -> int:
        """Documents that count."""
        return len(self.labels)


class LabelledDocument(NamedTuple):
    """A tokenised document with its label."""

    row: int
    """Its place in its split."""

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    """Segment of each token: 0, or 1 for the second text of a pair."""

    label: NDArray[np.float64]
    """A scalar, or 0 or 1 for each class; NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Examples(Sequence[LabelledDocument]):
    """A tokenised split, in flat arrays."""

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    bounds: NDArray[np.int64]
    """Example ``i`` is ``ids[bounds[i]:bounds[i + 1]]``."""

    labels: NDArray[np.float64]
    """Shape (examples,), or (examples, classes) of 0 and 1; NaN where there is none."""

    names: NDArray[np.int64]
    """What a submission calls the examples: the column ``idx``, else their number."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all examples."""
        return int(self.bounds[-1])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> LabelledDocument:  # type: ignore[override]
        span = slice(self.bounds[row], self.bounds[row + 1])
        return LabelledDocument(row, self.ids[span], self.types[span], self.labels[row])
