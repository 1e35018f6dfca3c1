"""The data of a contrastive run: from settings to batches, addressable by their number."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset as ArrowDataset
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from neobert.batch import TensorBatch
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.cache import opening
from neobert.data.loader import (
    CountedLoader,
    EvaluationBatches,
    Workers,
    build_loader,
    one_ahead,
    sum_over_ranks,
)
from neobert.data.masking import build_masking
from neobert.data.packing import Packing
from neobert.data.token_rows import RowMaker
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError
from neobert.tasks.contrastive.batches import PairBatch, Texts
from neobert.tasks.contrastive.pair_encoder import HELD_OUT, TRAIN
from neobert.tasks.contrastive.pair_evaluation import EvaluationSet
from neobert.tasks.contrastive.pair_loader import AnyBatch, Batches, Draws, PairRows
from neobert.tasks.contrastive.prepared_pairs import (
    PAIRS,
    Prepared,
    open_corpus,
    pair_encoder,
    prepare_sources,
)
from neobert.training.data import RunDataModule
from neobert.training.resume import ROWS_PER_STEP

log = get_logger(__name__)

HALF = np.uint64(0xFFFFFFFF)
"""Selects the lower half of a hash."""


@dataclass(frozen=True, slots=True)
class EvaluationBatch(TensorBatch):
    """Texts to encode, and their places in the evaluation set."""

    texts: Texts
    places: Int[Tensor, " S"]


class ContrastiveDataModule(RunDataModule):
    """Sources → pairs on disk → training and held-out pairs → batches."""

    def __init__(self, config: Config, tokenizer: TokenizerInfo) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer

    def read(self) -> None:
        """Prepare what is missing, one process at a time, and split it."""
        config = self.config
        encoder = pair_encoder(config, self.tokenizer)
        if config.dataset.force_redownload:
            log.warning(
                "dataset.force_redownload acts in python -m neobert.tools.prepare "
                "task=contrastive; a run takes what is prepared"
            )
        self.prepared = prepare_sources(config, encoder)
        self.sources: list[PairRows] = []
        self.evaluation = EvaluationSet()
        self.held_out: dict[str, NDArray[np.int64]] = {}  # rows of the tables, by source
        for source in self.prepared:
            self._open(source)
        if config.contrastive.eval_sts is not None:
            self.evaluation.add_sts(config.contrastive.eval_sts, encoder)
        self.corpus = open_corpus(config, self.tokenizer)

    def _open(self, prepared: Prepared) -> None:
        with opening(prepared.folder):
            table = ArrowDataset.from_file(str(prepared.folder / PAIRS))
        held = held_out_rows(table, self.config.dataset.validation_split)
        if held.sum() == 1:  # a single pair has nothing to be ranked among
            held &= table.data.column("split").to_numpy() == HELD_OUT
        places = sample_of(table, np.flatnonzero(held), self.config.dataset.eval_samples)
        rows = np.flatnonzero(~held)
        together = min(self.share.batch_size, len(rows) // self.share.ranks) * self.share.ranks
        if together < 2:
            raise ConfigError(
                f"source {prepared.name}: {len(rows)} training pairs and "
                f"trainer.per_device_train_batch_size={self.share.batch_size} give batches of "
                f"{together}, in which a pair has no negatives; at least 2 are "
                "needed"
            )
        self.held_out[prepared.name] = places
        self.sources.append(PairRows(prepared.name, table, rows, self.config.seed))
        if len(places) > 1:
            self.evaluation.add_pairs(prepared.name, table.select(places).to_list())
        elif self.config.trainer.eval_strategy != "no":
            log.warning("%s", self._not_evaluated(prepared.name, len(held)))
        evaluated = len(places) if len(places) > 1 else 0
        log.info(
            "%s: %s pairs to train on, %s to evaluate on",
            prepared.name,
            f"{len(rows):,}",
            f"{evaluated:,}",
        )

    def _not_evaluated(self, name: str, pairs: int) -> str:
        """Why there are fewer than the two pairs that a ranking takes, and what to change."""
        settings, own = self.config.dataset, self.config.contrastive.sources.get(name)
        if settings.eval_samples == 1:
            return f"{name} is not evaluated: dataset.eval_samples=1; a ranking takes 2 pairs"
        hint = "raise it"
        if isinstance(own, Mapping) and own.get("path") is not None:
            place = f"contrastive.sources.{name}.path"
            hint += f", or let {place} be a folder that has a val.jsonl of 2 or more pairs too"
        return (
            f"{name} is not evaluated: fewer than 2 of {pairs:,} pairs are held out "
            f"(dataset.validation_split={settings.validation_split or 0}): {hint}"
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which as many pairs are seen as there are."""
        pairs = sum(len(source.rows) for source in self.sources)
        return max(1, pairs // self.share.rows_per_step)

    @property
    def has_validation(self) -> bool:
        return super().has_validation and bool(self.evaluation.texts)

    def fingerprint(self) -> dict[str, object]:
        """What a resumed run must share, by setting."""
        config, settings = self.config, self.config.contrastive
        return {
            **{
                f"contrastive.sources.{source.name}": source.manifest["sha256"]
                for source in self.prepared
            },
            "tokenizer": self.tokenizer.fingerprint,
            "seed": config.seed,
            "dataset.alpha": config.dataset.alpha,
            "dataset.pretraining_prob": config.dataset.pretraining_prob,
            "dataset.validation_split": config.dataset.validation_split,
            "dataset.max_seq_length": config.dataset.max_seq_length,
            "contrastive.hard_negatives": settings.hard_negatives,
            "contrastive.hard_negative_weight": settings.hard_negative_weight,
            "contrastive.pretraining_step": settings.pretraining_step,
            "contrastive.pretraining_dataset": settings.pretraining_dataset,
            "contrastive.loss_type": settings.loss_type,
            "contrastive.temperature": settings.temperature,
            "contrastive.pooling": settings.pooling,
            ROWS_PER_STEP: self.share.rows_per_step,
        }

    def training_batches(self) -> CountedLoader[AnyBatch]:
        """The training batches of the whole run."""
        config, settings = self.config, self.config.contrastive
        draws = Draws.of(
            [len(source.rows) for source in self.sources],
            config.dataset.alpha,
            config.dataset.pretraining_prob,
            config.seed,
            self.total_steps * config.trainer.gradient_accumulation_steps,
        )
        masker = None
        if settings.pretraining_step == "mlm":
            masking = build_masking(
                config.datacollator, self.tokenizer, config.seed, self.total_steps
            )
            length, wrapping = config.dataset.max_seq_length, self.tokenizer.wrapping
            packing = Packing(length, length, wrapping, packed=False, truncate=True)
            masker = RowMaker(self.tokenizer, masking, packing)
        batches = Batches(
            sources=self.sources,
            draws=draws,
            share=self.share,
            seed=config.seed,
            hard_negatives=settings.hard_negatives,
            chunk_size=settings.micro_batch_size,
            corpus=self.corpus,
            masker=masker,
        )
        requested = config.trainer.dataloader_num_workers
        workers = self.workers(requested, "trainer.dataloader_num_workers")
        return PairLoader(batches, len(draws.turn), workers)

    def val_dataloader(self) -> "DataLoader[EvaluationBatch] | list[EvaluationBatch]":
        """This rank's part of the texts to encode."""
        if not self.has_validation:
            return []
        size = self.config.trainer.per_device_eval_batch_size
        batches = EvaluationTexts(self.evaluation.texts, size)
        return build_loader(batches, batches.numbers(self.share), Workers())


class EvaluationTexts(EvaluationBatches[EvaluationBatch]):
    """The texts of an evaluation, those of like length together; a number beyond the last gives a
    batch whose vector has no place."""

    def __init__(self, texts: Sequence[list[int]], size: int) -> None:
        super().__init__(len(texts), size)
        self.texts = texts
        self.order = np.argsort([len(text) for text in texts], kind="stable")

    def __getitem__(self, number: int) -> EvaluationBatch:
        rows = self.rows(number)
        places = self.order[rows.start : rows.stop]
        texts = [self.texts[place] for place in (places if len(places) else self.order[:1])]
        return EvaluationBatch(Texts.of(texts), torch.from_numpy(places))


class PairLoader(CountedLoader[AnyBatch]):
    """Adds to each batch of pairs how many documents the other ranks' batches have."""

    batches: Batches

    def remaining(self) -> Iterator[AnyBatch]:
        for batch, sizes in one_ahead(super().remaining(), self._documents_of_ranks):
            if isinstance(batch, PairBatch) and sizes:
                yield batch.among(sizes, self.batches.chunk_size)
            else:
                yield batch

    def _documents_of_ranks(self, batch: AnyBatch) -> Callable[[], list[int]]:
        share = self.batches.share
        if share.ranks == 1 or not isinstance(batch, PairBatch):
            return list
        counts = [0] * share.ranks
        counts[share.rank] = len(batch.document_texts)
        return sum_over_ranks(counts)


def held_out_rows(table: ArrowDataset, fraction: float | None) -> NDArray[np.bool_]:
    """Which rows are for evaluation: those that the source says, else a fraction of the queries.

    Decided by the hash of the query, so that it stays when the source grows, and all rows of one
    query are on one side.
    """
    # The table itself: a column of `datasets` is read row by row, a minute for 100,000 rows.
    split, hashes = (table.data.column(name).to_numpy() for name in ("split", "query_text"))
    low = (hashes.view(np.uint64) & HALF).astype(np.float64) / 2**32
    return (split == HELD_OUT) | ((split != TRAIN) & (low < (fraction or 0.0)))


def sample_of(table: ArrowDataset, rows: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """At most ``count`` of ``rows``, in their order: a file may be sorted, so not its first ones.

    Decided by the other half of the query's hash, whose first half held the rows out.
    """
    if count is None or len(rows) <= count:
        return rows
    hashes = table.data.column("query_text").to_numpy()[rows]
    high = hashes.view(np.uint64) >> np.uint64(32)
    return np.sort(rows[np.argsort(high, kind="stable")[:count]])
