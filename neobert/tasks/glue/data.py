"""The data of fine-tuning: from settings to labelled batches, addressable by their step.

As in pretraining, a batch is a function of (data, settings, seed, step). Every example is seen once
in each epoch: an epoch's last step is smaller than the others.
"""

import math
import os
from collections.abc import Iterator, Sequence

import datasets
import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from neobert.config.glue import GlueConfig
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.cache import cache_folder
from neobert.data.order import EMPTY, Order
from neobert.data.steps import Share, Steps
from neobert.tasks.glue.batch import Examples, LabelledBatch, Layout
from neobert.tasks.glue.labels import label_splits
from neobert.tasks.glue.pair_tokenizer import PairTokenizer
from neobert.tasks.glue.source import open_splits
from neobert.tasks.glue.tasks import GlueTask, task_of
from neobert.tasks.glue.tokenize import tokenize
from neobert.training.resume import ROWS_PER_STEP
from neobert.training.strategy import resolve_strategy
from neobert.training.trainer import runs_on_cuda

log = get_logger(__name__)


class GlueDataModule(LightningDataModule):
    """Texts and labels → examples → batches, for one task."""

    def __init__(
        self,
        config: Config,
        tokenizer: PreTrainedTokenizerFast,
        packed: bool,
        has_types: bool = False,
    ) -> None:
        """``packed=False`` pads, for models of the hub; ``has_types``: they take segments."""
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.packed, self.has_types = packed, has_types
        self._ready = False

    def setup(self, stage: str | None = None) -> None:
        """Read, check and tokenise all splits; what is cached is taken from there."""
        if self._ready:
            return
        config = self.config
        datasets.disable_progress_bars()
        cache = cache_folder(config.dataset.cache_dir)
        row = task_of(config.glue, config.dataset.name, config.dataset.config)
        splits = open_splits(row, config.glue.task_name, config.dataset, cache, config.seed)
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
        self._ready = True

    @property
    def share(self) -> Share:
        """This rank's part of a step."""
        settings = self.config.trainer
        return Share(
            settings.per_device_train_batch_size,
            settings.gradient_accumulation_steps,
            _rank(),
            _ranks(self.config),
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every example is seen once."""
        return max(1, math.ceil(len(self.train) / self.share.rows_per_step))

    @property
    def total_steps(self) -> int:
        """``trainer.max_steps``, else ``trainer.num_train_epochs`` in steps."""
        settings = self.config.trainer
        if settings.max_steps > 0:
            return settings.max_steps
        return settings.num_train_epochs * self.steps_per_epoch

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
            for name in ("classifier_activation", "classifier_pooling")
            if getattr(glue, name) != getattr(default, name)
        }

    def train_dataloader(self) -> "GlueLoader":
        """The training batches of the whole run."""
        order = Order(len(self.train), self.config.seed, self.share.rows_per_step, False)
        batches = TrainingBatches(self.train, self._layout(), order, self.share)
        has_gpu = torch.cuda.is_available()  # without, torch warns
        pins = has_gpu and (self.config.dataset.pin_memory or not self.config.trainer.use_cpu)
        return GlueLoader(batches, self.total_steps, self._workers(), pins)

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
        batches = EvaluationBatches(examples, self._layout(), size)
        count = len(batches) if budget is None else min(budget, len(batches))
        ranks = self.share.ranks
        numbers = range(self.share.rank, math.ceil(count / ranks) * ranks, ranks)
        return build_loader(batches, numbers, 0)

    def _layout(self) -> Layout:
        longest = self.config.glue.max_seq_length
        pad = self.tokenizer.pad_token_id
        return Layout(
            packed=self.packed,
            regression=self.task.regression,
            pad_token_id=pad if isinstance(pad, int) else 0,
            multiple=self.config.datacollator.pad_to_multiple_of or 1,
            row_length=longest if self.config.tokenizer.padding == "max_length" else None,
            has_types=self.has_types,
        )

    def _workers(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        return min(self.config.glue.num_workers, cores)

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

    def __init__(self, examples: Examples, layout: Layout, order: Order, share: Share) -> None:
        self.examples, self.layout, self.order, self.share = examples, layout, order, share

    def __getitem__(self, number: int) -> LabelledBatch:
        rows = self._rows(Steps(self.share).numbers(number))
        first = number // self.share.accumulation * self.share.rows_per_step
        step = range(first, first + self.share.rows_per_step)
        return self.layout.batch(self.examples, rows, self._count(step))

    def _rows(self, numbers: Sequence[int]) -> list[int]:
        return [row for one in numbers if (row := self.order.row(one)) != EMPTY]

    def _count(self, numbers: range) -> int:
        """Examples among these row numbers, which lie in one epoch."""
        place = numbers.start % self.order.rows_per_epoch
        return min(len(numbers), self.order.num_rows - place)


class EvaluationBatches(Dataset[LabelledBatch]):
    """The examples of an evaluation set in their order; beyond its end, empty batches."""

    def __init__(self, examples: Examples, layout: Layout, size: int) -> None:
        self.examples, self.layout, self.size = examples, layout, size

    def __len__(self) -> int:
        return math.ceil(len(self.examples) / self.size)

    def __getitem__(self, number: int) -> LabelledBatch:
        rows = range(len(self.examples))[number * self.size : (number + 1) * self.size]
        return self.layout.batch(self.examples, rows)


class GlueLoader:
    """The training batches of a whole run, for Lightning one epoch.

    Its state is the number of micro-batches handed out.
    """

    def __init__(
        self, batches: TrainingBatches, total_steps: int, workers: int, pin_memory: bool = False
    ) -> None:
        self.batches, self.total_steps = batches, total_steps
        self.workers, self.pin_memory = workers, pin_memory
        self._done = 0

    def __len__(self) -> int:
        return self.total_steps * self.batches.share.accumulation

    def __iter__(self) -> Iterator[LabelledBatch]:
        numbers = range(self._done, len(self))
        for batch in build_loader(self.batches, numbers, self.workers, self.pin_memory):
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the run is in its data."""
        return {"micro_batches": self._done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._done = state_dict["micro_batches"]


def build_loader(
    dataset: Dataset[LabelledBatch],
    numbers: Sequence[int],
    workers: int,
    pin_memory: bool = False,
) -> "DataLoader[LabelledBatch]":
    """A loader of the items ``numbers``, in this order, however many processes compute them."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else it would draw from the generator of the training step
    )


def _rank() -> int:
    together = dist.is_available() and dist.is_initialized()
    return dist.get_rank() if together else 0


def _ranks(config: Config) -> int:
    """Processes of the run: those that there are, else those that the settings ask for."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return resolve_strategy(config, runs_on_cuda(config.trainer)).processes
