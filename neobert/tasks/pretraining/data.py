"""The data of pretraining: from settings to masked micro-batches, addressable by their step."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from datasets import IterableDataset
from lightning.pytorch import LightningDataModule
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset

from neobert.batch import MaskedBatch
from neobert.config.checks import ConfigError
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.cache import cache_folder, key_of, publish
from neobert.data.loader import (
    MicroBatches,
    Order,
    Rows,
    Share,
    StepLoader,
    Workers,
    build_loader,
)
from neobert.data.masking import Masking
from neobert.data.packing import RowPlan, cut_documents, plan_packed, plan_single
from neobert.data.sources import open_source
from neobert.data.store import TokenStore, write_store
from neobert.data.stream import Packing, StreamBatches, StreamLoader, StreamRows
from neobert.data.tokenizer import TokenizerInfo, load_tokenizer, text_tokenizer

log = get_logger(__name__)

EVALUATION_SEED = 0x5EED
"""Masks of evaluation never depend on the run's seed."""

PLAN_VERSION = 1
BATCH = 1000
EXAMPLE_ROWS = 64
STREAM_SAMPLE = 2048
"""Documents of a stream whose word frequencies stand for all of it, and by which it is known
again."""

VOCABULARY_SAMPLE = 500_000
"""Documents that a vocabulary is trained on at most."""


class PretrainingDataModule(LightningDataModule):
    """Documents → tokens → rows → batches. Everything is made once and cached."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self._ready = False

    def prepare_data(self) -> None:
        """Nothing: :meth:`setup` makes what is missing, one process at a time."""

    def setup(self, stage: str | None = None) -> None:
        """Load or make tokenizer, token stores and row plans."""
        if self._ready:
            return
        config = self.config
        cache = cache_folder(config.dataset.cache_dir)
        self.source = source = open_source(config.dataset, cache, config.seed)
        self.tokenizer: TokenizerInfo = load_tokenizer(
            config.tokenizer, lambda: islice(source.train(), VOCABULARY_SAMPLE), source.key, cache
        )
        self._check_lengths()
        key: dict[str, object] = {"data": source.key, "tokenizer": self.tokenizer.fingerprint}
        if source.stream is None:
            self.train_store = _store(cache, {**key, "split": "train"}, source.train, self)
            self.train_plan = self._plan(self.train_store, cache, said=True)
            if self.train_plan.num_rows == 0:
                raise ConfigError([f"dataset: {_name(config)} has no document to train on"])
        else:
            sample = {**key, "split": "sample"}
            self.train_store = _store(
                cache, sample, lambda: islice(source.train(), STREAM_SAMPLE), self
            )
        held_out = source.evaluation or (lambda: ())
        budget = self._evaluation_budget()
        recipe = {**key, "split": "validation", "documents": budget}
        self.eval_store = _store(cache, recipe, lambda: islice(held_out(), budget), self)
        self.eval_plan = self._plan(self.eval_store, cache)
        self._ready = True

    def _check_lengths(self) -> None:
        wrapping, length = self.tokenizer.wrapping, self.config.row_length()
        if length <= wrapping:
            raise ConfigError([f"dataset.max_seq_length={length}: leaves no room for text"])

    def _evaluation_budget(self) -> int | None:
        """Documents to evaluate on at most; a stream has to be told."""
        settings = self.config.dataset
        if settings.eval_samples is not None:
            return settings.eval_samples
        if self.source.stream is None or self.source.evaluation is None:
            return None
        batches = self.config.trainer.eval_max_batches
        if batches is None:
            raise ConfigError(
                [
                    "a streamed evaluation split needs an explicit budget: set "
                    "dataset.eval_samples or trainer.eval_max_batches"
                ]
            )
        return batches * self.config.trainer.per_device_eval_batch_size

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.tokenizer.vocab_size

    @property
    def pad_token_id(self) -> int:
        return self.tokenizer.pad_token_id

    @property
    def share(self) -> Share:
        """This rank's part of a step."""
        together = dist.is_available() and dist.is_initialized()
        return Share(
            self.config.trainer.per_device_train_batch_size,
            self.config.trainer.gradient_accumulation_steps,
            dist.get_rank() if together else 0,
            dist.get_world_size() if together else _planned_ranks(self.config),
        )

    @property
    def order(self) -> Order:
        """How the run goes through the rows."""
        return Order(
            self.train_plan.num_rows,
            self.config.seed,
            self.share.rows_per_step,
            self.config.trainer.enforce_full_packed_batches,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every row is seen once; a stream's whole run is one epoch."""
        if self.source.stream is not None:
            return max(1, self.config.trainer.max_steps)
        return max(1, self.order.rows_per_epoch // self.share.rows_per_step)

    @property
    def total_steps(self) -> int:
        """``trainer.max_steps``, else ``trainer.num_train_epochs`` in steps."""
        settings = self.config.trainer
        if settings.max_steps > 0:
            return settings.max_steps
        if self.source.stream is not None:
            raise ConfigError(["trainer.max_steps must be above 0: a stream has no epochs"])
        return settings.num_train_epochs * self.steps_per_epoch

    @property
    def has_validation(self) -> bool:
        return self.config.trainer.eval_strategy != "no" and self.eval_plan.num_rows > 0

    @property
    def unigram_loss(self) -> float:
        """Nats per token of the evaluation text under the word frequencies of the training text;
        of the training text itself where nothing is held out."""
        words = ~self.tokenizer.is_special[: len(self.train_store.counts)]
        seen = (self.train_store.counts + 1.0) * words
        met = self.eval_store.counts * words
        if not met.any():
            met = self.train_store.counts * words
        probability = seen / seen.sum()
        used = met > 0
        return float(-(met[used] * np.log(probability[used])).sum() / max(1, met.sum()))

    def fingerprint(self) -> dict[str, object]:
        """What a resumed run must share, by setting."""
        config = self.config
        return {
            "dataset (text)": self.source.key,
            "dataset (tokens)": self.train_store.info.digest,
            "dataset.shuffle_buffer_size": (
                config.dataset.shuffle_buffer_size if self.source.stream is not None else None
            ),
            "tokenizer": self.tokenizer.fingerprint,
            "seed": config.seed,
            "dataset.max_seq_length": config.dataset.max_seq_length,
            "dataset.min_length": self._shortest(),
            "dataset.skip_steps": config.dataset.skip_steps,
            "tokenizer.truncation": config.tokenizer.truncation,
            "datacollator.mlm_probability": config.datacollator.mlm_probability,
            "datacollator.mask_all": config.datacollator.mask_all,
            "datacollator.pack_sequences": config.datacollator.pack_sequences,
            "datacollator.max_length": config.datacollator.max_length,
            "datacollator.pad_to_multiple_of": config.datacollator.pad_to_multiple_of,
            "trainer.enforce_full_packed_batches": config.trainer.enforce_full_packed_batches,
            "rows per step (batch size × accumulation × devices)": self.share.rows_per_step,
        }

    def train_dataloader(self) -> StepLoader | StreamLoader:
        """The training batches of the whole run."""
        spans = [_span(span) for span in self.config.dataset.skip_steps]
        if self.source.stream is not None:
            return StreamLoader(
                StreamBatches(self._stream_rows(self.source.stream), self.share, spans),
                self.total_steps,
                self._workers(),
            )
        batches = MicroBatches(self._rows(train=True), self.order, self.share, spans)
        return StepLoader(batches, self.total_steps, self._workers())

    def val_dataloader(self) -> "DataLoader[MaskedBatch] | list[MaskedBatch]":
        """This rank's evaluation batches: every row once over all ranks, masks always the same."""
        if not self.has_validation:
            return []
        share = self.share
        size = self.config.trainer.per_device_eval_batch_size
        batches = EvaluationBatches(self._rows(train=False), size)
        budget = self.config.trainer.eval_max_batches
        count = len(batches) if budget is None else min(budget, len(batches))
        return build_loader(batches, range(share.rank, count, share.ranks), Workers(0))

    def example_batches(self) -> list[MaskedBatch]:
        """Some evaluation text for the report; none where nothing is held out."""
        rows = self._rows(train=False)
        if rows.plan.num_rows == 0:
            return []
        spread = np.linspace(0, rows.plan.num_rows, EXAMPLE_ROWS, endpoint=False, dtype=int)
        return [rows.batch([row], [row]) for row in dict.fromkeys(spread.tolist())]

    def _rows(self, train: bool) -> Rows:
        return Rows(
            store=self.train_store if train else self.eval_store,
            plan=self.train_plan if train else self.eval_plan,
            tokenizer=self.tokenizer,
            masking=self._masking(self.config.seed if train else EVALUATION_SEED),
            packed=self.config.datacollator.pack_sequences,
            multiple=self.config.datacollator.pad_to_multiple_of or 1,
        )

    def _stream_rows(self, stream: IterableDataset) -> StreamRows:
        config = self.config
        return StreamRows(
            stream=stream.select_columns([self.source.column]),
            column=self.source.column,
            tokenizer=self.tokenizer,
            masking=self._masking(config.seed),
            packing=Packing(
                row_length=config.row_length(),
                packed=config.datacollator.pack_sequences,
                truncate=config.tokenizer.truncation,
                shortest=self._shortest(),
                multiple=config.datacollator.pad_to_multiple_of or 1,
            ),
            window=config.dataset.shuffle_buffer_size,
        )

    def _masking(self, seed: int) -> Masking:
        settings = self.config.datacollator
        return Masking(
            probability=settings.mlm_probability,
            mask_all=settings.mask_all,
            mask_id=self.tokenizer.mask_token_id,
            random_ids=self.tokenizer.random_ids,
            seed=seed,
        )

    def _plan(self, store: TokenStore, cache: Path, said: bool = False) -> RowPlan:
        config = self.config
        packed, length = config.datacollator.pack_sequences, config.row_length()
        wrapping, truncate = self.tokenizer.wrapping, config.tokenizer.truncation
        recipe = {
            "store": store.info.digest,
            "packed": packed,
            "row_length": length,
            "wrapping": wrapping,
            "truncate": truncate,
            "shortest": self._shortest(),
            "version": PLAN_VERSION,
        }
        folder = cache / "rows" / key_of(recipe)

        def make(target: Path) -> None:
            pieces = cut_documents(store.lengths, length - wrapping, truncate, self._shortest())
            plan_rows = plan_packed if packed else plan_single
            plan_rows(pieces, length, wrapping).save(target)

        publish(folder, make)
        plan = RowPlan.load(folder)
        if said:
            _say(plan, store, packed, truncate)
        return plan

    def _shortest(self) -> int:
        settings = self.config.dataset
        return settings.min_length if settings.filter_by_length else 0

    def _workers(self) -> Workers:
        settings = self.config.dataset
        cores = len(os_cores())
        number = min(settings.num_workers, cores)
        if number < settings.num_workers:
            log.info("dataset.num_workers: %d, as many as there are cores", number)
        on_cuda = torch.cuda.is_available() and not self.config.trainer.use_cpu
        prefetch = settings.prefetch_factor or (4 if on_cuda else None)
        return Workers(
            number, prefetch, settings.persistent_workers, settings.pin_memory or on_cuda
        )


class EvaluationBatches(Dataset[MaskedBatch]):
    """The rows of the evaluation set in their order, masked under their own numbers."""

    def __init__(self, rows: Rows, size: int) -> None:
        self.rows, self.size = rows, size

    def __len__(self) -> int:
        return math.ceil(self.rows.plan.num_rows / self.size)

    def __getitem__(self, number: int) -> MaskedBatch:
        first = number * self.size
        numbers = range(first, min(first + self.size, self.rows.plan.num_rows))
        return self.rows.batch(numbers, numbers)


def os_cores() -> set[int]:
    """The cores that this process may use."""
    return (
        os.sched_getaffinity(0)
        if hasattr(os, "sched_getaffinity")
        else set(range(os.cpu_count() or 1))
    )


def _store(
    cache: Path,
    key: Mapping[str, object],
    read: Callable[[], Iterable[str]],
    data: PretrainingDataModule,
) -> TokenStore:
    folder = cache / "tokens" / key_of(key)

    def make(target: Path) -> None:
        log.info("tokenising: %s", key["split"])
        write_store(target, _tokenized(read(), data.tokenizer), data.tokenizer.vocab_size)

    publish(folder, make)
    return TokenStore.open(folder)


def _tokenized(
    texts: Iterable[str], info: TokenizerInfo
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    core = text_tokenizer(info.tokenizer)
    waiting: list[str] = []
    for text in texts:
        waiting.append(text)
        if len(waiting) == BATCH:
            yield _encoded(core, waiting)
            waiting = []
    if waiting:
        yield _encoded(core, waiting)


def _encoded(core: Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    found = [one.ids for one in core.encode_batch(texts, add_special_tokens=False)]
    lengths = np.array([len(ids) for ids in found], dtype=np.int64)
    return np.array([token for ids in found for token in ids], dtype=np.int64), lengths


def _say(plan: RowPlan, store: TokenStore, packed: bool, truncate: bool) -> None:
    kind = "rows" if packed else "documents"
    log.info(
        "data: %s documents, %s tokens, %s %s of up to %d%s",
        f"{store.info.documents:,}",
        f"{store.info.tokens:,}",
        f"{plan.num_rows:,}",
        kind,
        plan.row_length,
        f", {plan.fill:.1%} full" if packed else "",
    )
    if truncate and plan.pieces.cut_tokens:
        share = plan.pieces.cut_tokens / max(1, store.info.tokens)
        log.info(
            "tokenizer.truncation left out %s tokens (%.1f %%); false keeps them",
            f"{plan.pieces.cut_tokens:,}",
            100 * share,
        )


def _planned_ranks(config: Config) -> int:
    """Processes that the settings ask for, before they have found each other."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    devices = config.trainer.devices
    if devices == "auto":
        on_cuda = torch.cuda.is_available() and not config.trainer.use_cpu
        devices = torch.cuda.device_count() if on_cuda else 1
    return int(devices) * config.trainer.num_nodes


def _span(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last) + 1)


def _name(config: Config) -> str:
    return config.dataset.path or config.dataset.name
