"""Fine-tuning data: the documents of some splits, in batches that are addressable by their step.

Every document is seen once in each epoch, whose last step is smaller than the others. A task says
how it reads its splits, and how some of their documents become a batch.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from neobert.console import get_logger
from neobert.data.loader import CountedLoader, EvaluationBatches, Workers, build_loader
from neobert.data.order import EMPTY, Order
from neobert.data.steps import Steps
from neobert.errors import ConfigError
from neobert.training.data import RunDataModule

log = get_logger(__name__)

SHOWN = 5
"""Problems of rows that an error lists."""

Document = TypeVar("Document")
Batch = TypeVar("Batch")


class DocumentDataModule(RunDataModule, Generic[Document, Batch]):
    """Documents of a training split, and of splits that are predicted."""

    train: Sequence[Document]
    num_workers: tuple[str, int]
    """Key and value of the setting for loader processes."""

    @property
    @abstractmethod
    def predicted_splits(self) -> Sequence[str]:
        """Splits that are predicted at the end, ``validation`` first."""

    @abstractmethod
    def documents_of(self, split: str) -> Sequence[Document]:
        """The documents of a split that is predicted."""

    @abstractmethod
    def batch(self, documents: Sequence[Document], step: Sequence[Document] = ()) -> Batch:
        """The batch of ``documents``, maybe none; ``step`` are those of its optimizer step, on all
        ranks."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every document is seen once."""
        return max(1, math.ceil(len(self.train) / self.share.rows_per_step))

    def training_batches(self) -> CountedLoader[Batch]:
        """The training batches of the whole run."""
        key, number = self.num_workers
        workers = self.workers(number, key)
        batches = TrainingDocuments(self)
        return CountedLoader(batches, self.total_steps * self.share.accumulation, workers)

    def val_dataloader(self) -> "DataLoader[Batch]":
        """This rank's batches of the evaluation set."""
        return self.batches_of("validation", self.config.trainer.eval_max_batches)

    def batches_of(self, split: str, budget: int | None = None) -> "DataLoader[Batch]":
        """Every document of a split once over all ranks, which have equal numbers of batches."""
        size = self.config.trainer.per_device_eval_batch_size
        batches = SplitDocuments(self, self.documents_of(split), size, budget)
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
