"""Labelled batches: documents laid end to end, or, for models of the hub, a padded rectangle.

Letters: S documents of a batch with those that fill it up, L the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
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

    num_examples_in_step: int = 0
    """Labelled documents of the whole optimizer step, on all ranks; 0 in evaluation."""

    @property
    def num_examples(self) -> int:
        """Documents that count."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Examples:
    """A tokenised split, in flat arrays."""

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    """Segment of each token: 0, or 1 for the second text of a pair."""

    bounds: NDArray[np.int64]
    """Example ``i`` is ``ids[bounds[i]:bounds[i + 1]]``."""

    labels: NDArray[np.float64]
    """Shape (examples,), or (examples, classes) of 0 and 1; NaN where there is none."""

    names: NDArray[np.int64]
    """What a submission calls the examples: the column ``idx``, else their number."""

    def __len__(self) -> int:
        return len(self.labels)

    def document(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and segments of an example."""
        span = slice(self.bounds[row], self.bounds[row + 1])
        return self.ids[span].astype(np.int64), self.types[span].astype(np.int64)


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """How examples become a batch."""

    packed: bool
    """End to end (ours) or padded (models of the hub)."""

    real_labels: bool
    """Labels are float32 (a regression, or several a text), not int64 classes."""

    pad_token_id: int
    multiple: int = 1
    """The token axis is filled up to a multiple of this."""

    row_length: int | None = None
    """Padded: length of every row; ``None`` takes the longest of the batch."""

    has_types: bool = False
    """Padded: the model takes segments."""

    def batch(
        self, examples: Examples, rows: Sequence[int], num_examples_in_step: int = 0
    ) -> LabelledBatch:
        """The batch of these rows. Without any it is one pad token, which no label belongs to."""
        documents = [examples.document(row) for row in rows]
        if not documents:
            documents = [(np.array([self.pad_token_id]), np.array([0]))]
        kind = torch.float32 if self.real_labels else torch.int64
        labels = np.nan_to_num(examples.labels[list(rows)], nan=-1.0)
        return LabelledBatch(
            inputs=self._packed(documents) if self.packed else self._padded(documents),
            labels=torch.from_numpy(labels).to(kind),
            rows=torch.tensor(list(rows), dtype=torch.int64),
            num_examples_in_step=num_examples_in_step,
        )

    def _packed(self, documents: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> PackedBatch:
        ids = [document.tolist() for document, _ in documents]
        return PackedBatch.from_documents(ids, self.pad_token_id, self.multiple)

    def _padded(self, documents: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> PaddedBatch:
        return PaddedBatch.from_documents(
            [ids for ids, _ in documents],
            self.pad_token_id,
            self.multiple,
            self.row_length,
            [types for _, types in documents] if self.has_types else None,
        )
