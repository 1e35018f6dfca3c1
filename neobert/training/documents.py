"""Fine-tuning data: the documents of some splits, in batches that are addressable by their step.

Every document is seen once in each epoch, whose last step is smaller than the others. A task says
how it reads its splits, and how some of their documents become a batch.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import datasets
import numpy as np
from torch.utils.data import DataLoader, Dataset

from neobert.batch import PackedBatch, PaddedBatch
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.cache import cache_folder
from neobert.data.loader import CountedLoader, EvaluationBatches, Workers, build_loader
from neobert.data.order import EMPTY, Order
from neobert.data.steps import Steps
from neobert.data.task_splits import Splits, TableTask, open_splits
from neobert.errors import ConfigError
from neobert.training.data import RunDataModule
from neobert.training.encoder_start import EncoderStart
from neobert.training.hub_model import takes_types
from neobert.training.resume import ROWS_PER_STEP

log = get_logger(__name__)

SHOWN = 5
"""Problems of rows that an error lists."""


class HasIds(Protocol):
    """A document of tokens."""

    @property
    def ids(self) -> Sized: ...


Document = TypeVar("Document", bound=HasIds)
Batch = TypeVar("Batch")


class DocumentDataModule(RunDataModule, Generic[Document, Batch]):
    """Documents of a training split, and of splits that are predicted."""

    section: ClassVar[str]
    """Section of the task's settings, with ``max_seq_length`` and ``num_workers``."""

    unit: ClassVar[str] = "documents"
    """What the task calls its documents."""

    shared: ClassVar[Sequence[str]]
    """Settings of the section that a resumed run must share."""

    documents: Mapping[str, Sequence[Document]]
    """By split: ``train``, then those that are predicted, the evaluation sets first."""

    validation_splits: Sequence[str] = ("validation",)
    """The evaluation sets."""

    def __init__(self, config: Config, start: EncoderStart) -> None:
        super().__init__(config)
        self.tokenizer, self.packed = start.tokenizer, start.kind != "hub"
        self.has_types = not self.packed and takes_types(config)

    @abstractmethod
    def batch(self, documents: Sequence[Document], step: Sequence[Document] = ()) -> Batch:
        """The batch of ``documents``, maybe none; ``step`` are those of its optimizer step, on all
        ranks."""

    def open_splits(self, task: TableTask, name: str, packaged: Path | None = None) -> Splits:
        """The rows of all splits of ``task``, called ``name``."""
        datasets.disable_progress_bars()
        source, seed = self.config.dataset, self.config.seed
        cache = cache_folder(source.cache_dir)
        splits = open_splits(task, name, source, cache, seed, packaged)
        self.origin = splits.origin
        return splits

    def inputs(
        self,
        ids: list[list[int]],
        types: Sequence[list[int]] = (),
        row_length: int | None = None,
    ) -> PackedBatch | PaddedBatch:
        """Documents of ``ids`` end to end, or for a model of transformers in padded rows.

        Those have the segment of each token (``types``) if the model takes it, and are of
        ``row_length``, by default as long as the longest. Without any document it is a pad token.
        """
        pad = self.tokenizer.pad_token_id if isinstance(self.tokenizer.pad_token_id, int) else 0
        multiple = self.config.datacollator.pad_to_multiple_of or 1
        documents = ids or [[pad]]
        inputs: PackedBatch | PaddedBatch
        if self.packed:
            inputs = PackedBatch.from_documents(documents, pad, multiple)
        else:
            rows = [np.array(row, np.int64) for row in documents]
            segments = [np.array(row, np.int64) for row in types] if self.has_types else None
            inputs = PaddedBatch.from_documents(rows, pad, multiple, row_length, segments or None)
        return inputs if ids else replace(inputs, num_tokens=0)

    @property
    def train(self) -> Sequence[Document]:
        """The documents to train on."""
        return self.documents["train"]

    @property
    def train_tokens(self) -> int:
        """Tokens of the documents to train on."""
        return sum(len(document.ids) for document in self.train)

    @property
    def predicted_splits(self) -> list[str]:
        """Splits that are predicted at the end, the evaluation sets first."""
        return [split for split in self.documents if split != "train"]

    @property
    def test_splits(self) -> list[str]:
        """Those of them that are no evaluation sets."""
        return [split for split in self.predicted_splits if split not in self.validation_splits]

    @property
    def settings(self) -> Any:  # noqa: ANN401 - each task has its own section
        """The section of the task."""
        return getattr(self.config, self.section)

    def fingerprint(self) -> dict[str, object]:
        """What a resumed run must share, by setting."""
        size = f"{len(self.train)} {self.unit}, {self.train_tokens} tokens"
        return {
            "dataset": f"{self.origin}, {size}",
            "dataset.train_split": self.config.dataset.train_split,
            **{f"{self.section}.{name}": getattr(self.settings, name) for name in self.shared},
            "seed": self.config.seed,
            ROWS_PER_STEP: self.share.rows_per_step,
        }

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every document is seen once."""
        return max(1, math.ceil(len(self.train) / self.share.rows_per_step))

    def training_batches(self) -> CountedLoader[Batch]:
        """The training batches of the whole run."""
        workers = self.workers(self.settings.num_workers, f"{self.section}.num_workers")
        batches = TrainingDocuments(self)
        return CountedLoader(batches, self.total_steps * self.share.accumulation, workers)

    def val_dataloader(self) -> "list[DataLoader[Batch]]":
        """This rank's batches of each evaluation set."""
        budget = self.config.trainer.eval_max_batches
        return [self.batches_of(split, budget) for split in self.validation_splits]

    def batches_of(self, split: str, budget: int | None = None) -> "DataLoader[Batch]":
        """Every document of a split once over all ranks, which have equal numbers of batches."""
        size = self.config.trainer.per_device_eval_batch_size
        batches = SplitDocuments(self, self.documents[split], size, budget)
        return build_loader(batches, batches.numbers(self.share), Workers())


class TrainingDocuments(Dataset[Batch], Generic[Document, Batch]):
    """Micro-batches of a run by their number."""

    def __init__(self, data: DocumentDataModule[Document, Batch]) -> None:
        self.data, self.share = data, data.share
        rows_per_step = self.share.rows_per_step
        self.order = Order(len(data.train), data.config.seed, rows_per_step, whole_steps=False)

    def __getitem__(self, number: int) -> Batch:
        first = number // self.share.accumulation * self.share.rows_per_step
        step = self._documents(range(first, first + self.share.rows_per_step))
        return self.data.batch(self._documents(Steps(self.share).numbers(number)), step)

    def _documents(self, numbers: Sequence[int]) -> list[Document]:
        rows = [row for number in numbers if (row := self.order.row(number)) != EMPTY]
        return [self.data.train[row] for row in rows]


class SplitDocuments(EvaluationBatches[Batch], Generic[Document, Batch]):
    """The documents of a split in their order; beyond its end, empty batches."""

    def __init__(
        self,
        data: DocumentDataModule[Document, Batch],
        documents: Sequence[Document],
        size: int,
        budget: int | None,
    ) -> None:
        super().__init__(len(documents), size, budget)
        self.data, self.documents = data, documents

    def __getitem__(self, number: int) -> Batch:
        return self.data.batch([self.documents[row] for row in self.rows(number)])


def report_bad_rows(
    problems: Sequence[str], section: str, rule: str, columns: Sequence[str]
) -> None:
    """Raise ``ConfigError`` with the first of ``problems``; with the rule ``skip``, count them.

    Each is a row that does not fit and, under the rule, is left out.
    ``section.bad_rows`` is the rule's key, and ``columns`` are the section's keys of columns.
    """
    if not problems:
        return
    key = f"{section}.bad_rows"
    if rule == "skip":
        log.warning("%s=skip: %d rows left out, such as: %s", key, len(problems), problems[0])
        return
    keys = ", ".join(f"{section}.{column}" for column in columns)
    hint = f"mend the rows, choose the columns ({keys}), or leave such rows out with {key}=skip"
    more = len(problems) - SHOWN
    others = [f"and {more} more such rows"] if more > 0 else []
    raise ConfigError(*problems[:SHOWN], *others, hint)
