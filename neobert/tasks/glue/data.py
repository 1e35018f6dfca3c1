"""The data of fine-tuning: from settings to labelled batches, addressable by their step.

As in pretraining, a batch is a function of (data, settings, seed, step). Every example is seen once
in each epoch: an epoch's last step is smaller than the others.
"""

import math
from collections.abc import Sequence

import datasets
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from neobert.config.glue import GlueConfig
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.cache import cache_folder
from neobert.data.loader import CountedLoader, EvaluationBatches, Workers, build_loader
from neobert.data.order import EMPTY, Order
from neobert.data.steps import Share, Steps
from neobert.data.task_splits import open_splits
from neobert.tasks.glue.labelled_batch import BatchLayout, Examples, LabelledBatch
from neobert.tasks.glue.labels import label_splits
from neobert.tasks.glue.packaged import is_packaged_task, packaged_folder
from neobert.tasks.glue.pair_tokenizer import PairTokenizer
from neobert.tasks.glue.tasks import GlueTask, task_of
from neobert.tasks.glue.tokenized_examples import tokenize
from neobert.training.data import RunDataModule
from neobert.training.resume import ROWS_PER_STEP

log = get_logger(__name__)


class GlueDataModule(RunDataModule):
    """Texts and labels → examples → batches, for one task."""

    def __init__(
        self,
        config: Config,
        tokenizer: PreTrainedTokenizerFast,
        packed: bool,
        has_types: bool = False,
    ) -> None:
        """``packed=False`` pads, for models of the hub; ``has_types``: they take segments."""
        super().__init__(config)
        self.tokenizer, self.packed, self.has_types = tokenizer, packed, has_types

    def read(self) -> None:
        """Read, check and tokenise all splits; what is cached is taken from there."""
        config = self.config
        datasets.disable_progress_bars()
        cache = cache_folder(config.dataset.cache_dir)
        row = task_of(config.glue, config.dataset.name, config.dataset.config)
        name = config.glue.task_name
        packaged = None
        if is_packaged_task(row.source) and not config.dataset.path:
            packaged = packaged_folder(row.source, cache)
        splits = open_splits(row, name, config.dataset, cache, config.seed, packaged)
        labelled = label_splits(row, splits)
        pair_tokenizer = PairTokenizer.of(
            self.tokenizer, row.texts, config.glue.max_seq_length, own=self.packed
        )
        processes = config.glue.preprocessing_num_proc
        self.task: GlueTask = labelled.task
        self.num_labels = labelled.num_labels
        self.origin = splits.origin
        self.train = tokenize(labelled.train, pair_tokenizer, cache, processes)
        self.validation = {
            end: tokenize(part, pair_tokenizer, cache, processes)
            for end, part in labelled.validation.items()
        }
        self.test = {
            split: tokenize(part, pair_tokenizer, cache, processes)
            for split, part in labelled.test.items()
        }
        self._say()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every example is seen once."""
        return max(1, math.ceil(len(self.train) / self.share.rows_per_step))

    @property
    def tokenizer_info(self) -> dict[str, object]:
        """What a checkpoint says about the tokenizer, the vocabulary's size apart."""
        return {
            "tokenizer_name": self.tokenizer.name_or_path,
            "pad_token_id": self.tokenizer.pad_token_id,
            "labels": list(self.task.labels),
        }

    def fingerprint(self) -> dict[str, object]:
        """What a resumed run must share, by setting."""
        return {
            "glue.task_name": self.config.glue.task_name,
            "dataset": f"{self.origin}, {len(self.train)} examples, {self.train.bounds[-1]} tokens",
            "dataset.train_split": self.config.dataset.train_split,
            "glue.max_seq_length": self.config.glue.max_seq_length,
            "glue.classifier_dropout": self.config.glue.classifier_dropout,
            **self._head(),
            "seed": self.config.seed,
            ROWS_PER_STEP: self.share.rows_per_step,
        }

    def _head(self) -> dict[str, object]:
        """What differs from the default head: older checkpoints have no entry for it."""
        glue, default = self.config.glue, GlueConfig()
        return {
            f"glue.{name}": getattr(glue, name)
            for name in ("classifier_activation", "classifier_pooling", "multi_label")
            if getattr(glue, name) != getattr(default, name)
        }

    def training_batches(self) -> CountedLoader[LabelledBatch]:
        """The training batches of the whole run."""
        order = Order(len(self.train), self.config.seed, self.share.rows_per_step, False)
        batches = TrainingBatches(self.train, self._layout(), order, self.share)
        workers = self.workers(self.config.glue.num_workers, "glue.num_workers")
        return CountedLoader(batches, self.total_steps * self.share.accumulation, workers)

    def val_dataloader(self) -> "list[DataLoader[LabelledBatch]]":
        """This rank's evaluation batches, a loader for each evaluation set."""
        budget = self.config.trainer.eval_max_batches
        return [self._evaluation_loader(part, budget) for part in self.validation.values()]

    def predict_dataloader(self) -> "list[DataLoader[LabelledBatch]]":
        """All of the evaluation sets, then all of the test sets."""
        parts = [*self.validation.values(), *self.test.values()]
        return [self._evaluation_loader(part, None) for part in parts]

    def _evaluation_loader(
        self, examples: Examples, budget: int | None
    ) -> "DataLoader[LabelledBatch]":
        """Every example once over all ranks, which have equal numbers of batches."""
        size = self.config.trainer.per_device_eval_batch_size
        batches = ExampleBatches(examples, self._layout(), size, budget)
        return build_loader(batches, batches.numbers(self.share), Workers())

    def _layout(self) -> BatchLayout:
        longest = self.config.glue.max_seq_length
        pad = self.tokenizer.pad_token_id
        return BatchLayout(
            packed=self.packed,
            real_labels=self.task.regression or self.task.multi_label,
            pad_token_id=pad if isinstance(pad, int) else 0,
            multiple=self.config.datacollator.pad_to_multiple_of or 1,
            row_length=longest if self.config.tokenizer.padding == "max_length" else None,
            has_types=self.has_types,
        )

    def _say(self) -> None:
        tokens = int(self.train.bounds[-1])
        log.info(
            "data: %s, %s training examples (%.1f tokens on average), %s to evaluate on%s",
            self.config.glue.task_name,
            f"{len(self.train):,}",
            tokens / len(self.train),
            " + ".join(f"{len(part):,}" for part in self.validation.values()),
            f", {sum(map(len, self.test.values())):,} to predict" if self.test else "",
        )


class TrainingBatches(Dataset[LabelledBatch]):
    """Micro-batches of a run by their number."""

    def __init__(self, examples: Examples, layout: BatchLayout, order: Order, share: Share) -> None:
        self.examples, self.layout, self.order, self.share = examples, layout, order, share

    def __getitem__(self, number: int) -> LabelledBatch:
        rows = self._rows(Steps(self.share).numbers(number))
        first = number // self.share.accumulation * self.share.rows_per_step
        step = range(first, first + self.share.rows_per_step)
        return self.layout.batch(self.examples, rows, self._count(step))

    def _rows(self, numbers: Sequence[int]) -> list[int]:
        return [row for number in numbers if (row := self.order.row(number)) != EMPTY]

    def _count(self, numbers: range) -> int:
        """Examples among these row numbers, which lie in one epoch."""
        place = numbers.start % self.order.rows_per_epoch
        return min(len(numbers), self.order.num_rows - place)


class ExampleBatches(EvaluationBatches[LabelledBatch]):
    """The examples of an evaluation set in their order; beyond its end, empty batches."""

    def __init__(
        self, examples: Examples, layout: BatchLayout, size: int, budget: int | None = None
    ) -> None:
        super().__init__(len(examples), size, budget)
        self.examples, self.layout = examples, layout

    def __getitem__(self, number: int) -> LabelledBatch:
        return self.layout.batch(self.examples, self.rows(number))
