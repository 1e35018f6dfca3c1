"""The data of pretraining: from settings to masked micro-batches, addressable by their step."""

from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from neobert.batch import MaskedBatch
from neobert.config.checks import ConfigError
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.cache import cache_folder, key_of, publish
from neobert.data.curriculum import Crop, MaskRate
from neobert.data.loader import (
    CroppedMicroBatches,
    MicroBatches,
    RowBatches,
    StepLoader,
    Workers,
    build_loader,
)
from neobert.data.masking import Masking, build_masking
from neobert.data.order import VERSION as ORDER_VERSION
from neobert.data.order import Order
from neobert.data.packing import Packing, RowPlan
from neobert.data.pretokenized import check_tokenizer, pre_tokenized
from neobert.data.processes import num_processes
from neobert.data.reader_count import check_readers, num_readers, report_shared_files
from neobert.data.shards import token_store
from neobert.data.sources import STREAM_SAMPLE, Documents, Source, open_source
from neobert.data.staged import StagedLoader, StageLoader
from neobert.data.stages import Stage, resolve_stages
from neobert.data.steps import Steps
from neobert.data.stream import StreamBatches, StreamLoader
from neobert.data.stream_readers import StreamRows
from neobert.data.token_rows import RowMaker, TokenRows
from neobert.data.token_store import TokenStore
from neobert.data.tokenizer import TokenizerInfo, load_tokenizer
from neobert.files import user_path
from neobert.tasks.pretraining.data_report import describe_plan
from neobert.training.data import RunDataModule
from neobert.training.resume import ROWS_PER_STEP

log = get_logger(__name__)

EVALUATION_SEED = 0x5EED
"""Masks of evaluation never depend on the run's seed."""

PLAN_VERSION = 3
EXAMPLE_ROWS = 64
VOCABULARY_SAMPLE = 500_000
"""Documents that a vocabulary is trained on at most."""


class PretrainingDataModule(RunDataModule):
    """Documents → tokens → rows → batches. Everything is made once and cached."""

    def read(self) -> None:
        """Load or make tokenizer, token stores and row plans."""
        settings = self.config.dataset
        cache = cache_folder(settings.cache_dir)
        source = open_source(settings, cache, self.config.seed)
        self.tokenizer = self._tokenizer(source, cache)
        if settings.path and source.train.tokenized:
            check_tokenizer(user_path(settings.path), self.tokenizer)
        self._check_lengths()
        source = self._within_budget(source)
        if settings.pre_tokenize and not source.train.tokenized:
            output = settings.pre_tokenize_output
            source = pre_tokenized(source, self.tokenizer, cache, output, self._processes)
        self.source = source
        self._make_training_rows(cache)
        held_out = source.evaluation
        if held_out is None:
            self.eval_store = TokenStore.empty()
        else:
            named = replace(held_out, name=f"{held_out.name} (evaluation)")
            self.eval_store = self._store(named, cache)
        self.eval_plan = self._plan(self.eval_store, self.packing)

    def _tokenizer(self, source: Source, cache: Path) -> TokenizerInfo:
        documents = source.train.head(VOCABULARY_SAMPLE)
        if documents.tokenized and self.config.tokenizer.train_vocab_size is not None:
            raise ConfigError(
                f"tokenizer.train_vocab_size: {documents.name} holds ids, not text; name the "
                "tokenizer they were made with (tokenizer.path=…, train_vocab_size=null)"
            )
        info = load_tokenizer(self.config.tokenizer, documents.texts, documents.key, cache)
        known, longest = info.tokenizer.model_max_length, self.config.dataset.max_seq_length
        if known < longest:
            log.warning(
                "tokenizer.max_length=%d is shorter than dataset.max_seq_length=%d, to which it is "
                "raised in the saved tokenizer",
                *(known, longest),
            )
            info.tokenizer.model_max_length = longest
        return info

    def _make_training_rows(self, cache: Path) -> None:
        source, stream = self.source, self.source.stream
        documents = source.train.head(None if stream is None else STREAM_SAMPLE)
        self.train_store = self._store(documents, cache)
        first = self.packing_of(self.config, train=True)
        self.train_plan = self._plan(self.train_store, first)
        streams = stream is not None
        log.info("%s", describe_plan(self.train_plan, self.train_store, self.packing, streams))
        is_all = not streams or self.train_store.info.documents < STREAM_SAMPLE
        if self.train_plan.num_rows == 0 and is_all:
            shortest = self.packing.shortest
            longer = f" of {shortest} tokens or more (dataset.min_length)" if shortest else ""
            raise ConfigError(f"dataset: {documents.name} has no document to train on{longer}")
        if stream is not None:
            seen, kept = self.train_store.info.documents, self.train_plan.info.documents
            check_readers(self.config.dataset, seen, kept, self.share.ranks)
            readers = self.stream_readers
            report_shared_files(readers, stream.num_groups(readers), self.share.ranks)
        elif self.config.dataset.stream_readers is not None:
            log.warning(
                "dataset.stream_readers=%d has no effect: %s is not a stream (dataset.streaming)",
                *(self.config.dataset.stream_readers, documents.name),
            )

    def _check_lengths(self) -> None:
        wrapping, length = self.tokenizer.wrapping, self.config.row_length()
        if length <= wrapping:
            raise ConfigError(f"dataset.max_seq_length={length}: leaves no room for text")

    def _within_budget(self, source: Source) -> Source:
        """Evaluate on ``dataset.eval_samples`` documents at most; a stream has to be told."""
        if source.evaluation is None:
            return source
        budget = self.config.dataset.eval_samples
        if source.stream is not None and budget is None:
            batches = self.config.trainer.eval_max_batches
            if batches is None:
                raise ConfigError(
                    "a streamed evaluation split needs an explicit budget: set "
                    "dataset.eval_samples or trainer.eval_max_batches"
                )
            budget = batches * self.config.trainer.per_device_eval_batch_size
        held_out = source.evaluation.head(budget)
        if source.stream is not None:
            held_out = held_out.known_by_text()
        return replace(source, evaluation=held_out)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.tokenizer.vocab_size

    @property
    def pad_token_id(self) -> int:
        return self.tokenizer.pad_token_id

    @property
    def packing(self) -> Packing:
        """How documents become rows of evaluation, and of a run without stages."""
        return self.packing_of(self.config)

    def packing_of(self, config: Config, train: bool = False) -> Packing:
        """How documents become rows under the settings of a stage."""
        length, dataset, wrapping = config.row_length(), config.dataset, self.tokenizer.wrapping
        longest, crop = min(length, dataset.max_seq_length), None
        if train and dataset.crop_min_length is not None:
            most = longest - wrapping
            crop = Crop(dataset.crop_min_length, most, dataset.crop_share, config.seed)
        return Packing(
            row_length=length,
            longest=longest,
            wrapping=wrapping,
            packed=config.datacollator.pack_sequences,
            truncate=config.tokenizer.truncation,
            shortest=dataset.min_length if dataset.filter_by_length else 0,
            multiple=config.datacollator.pad_to_multiple_of or 1,
            crop=crop,
        )

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run; one if none are set."""
        return resolve_stages(self.config, self.total_steps, self.share.ranks)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every row is seen once; a stream's whole run is one epoch."""
        if self.source.stream is not None:
            return max(1, self.config.trainer.max_steps)
        rows, rows_per_step = self.train_plan.num_rows, self.share.rows_per_step
        fills_up = self.packing.packed and not self.config.trainer.enforce_full_packed_batches
        return max(1, -(-rows // rows_per_step) if fills_up else rows // rows_per_step)

    @property
    def total_steps(self) -> int:
        """``trainer.max_steps``, else ``trainer.num_train_epochs`` in steps."""
        if self.source.stream is not None and self.config.trainer.max_steps <= 0:
            raise ConfigError("trainer.max_steps must be above 0: a stream has no epochs")
        return super().total_steps

    @property
    def has_validation(self) -> bool:
        return self.config.trainer.eval_strategy != "no" and self.eval_plan.num_rows > 0

    @property
    def unigram_loss(self) -> float:
        """Nats per token of the evaluation text under the word frequencies of the training text;
        of the training text itself where nothing is held out."""
        words = ~self.tokenizer.is_special[: len(self.train_store.counts)]
        seen = (self.train_store.counts + 1.0) * words
        met = self.train_store.counts * words
        if self.eval_store.info.tokens:
            met = self.eval_store.counts * words
        probability = seen / seen.sum()
        used = met > 0
        return float(-(met[used] * np.log(probability[used])).sum() / max(1, met.sum()))

    def fingerprint(self) -> dict[str, object]:
        """What a resumed run must share, by setting."""
        config, stream = self.config, self.source.stream is not None
        settings, tokens = config.dataset, self.train_store.info.digest
        return {
            # The text of a stream is known by its name and its first documents.
            "dataset": [self.source.train.key, tokens] if stream else tokens,
            "dataset.order_version": ORDER_VERSION,
            "dataset.shuffle_buffer_size": settings.shuffle_buffer_size if stream else None,
            "dataset.stream_readers": self.stream_readers if stream else None,
            "tokenizer": self.tokenizer.fingerprint,
            "seed": config.seed,
            "dataset.max_seq_length": settings.max_seq_length,
            "dataset.min_length": self.packing.shortest,
            "dataset.skip_steps": settings.skip_steps,
            "dataset.crop_min_length": settings.crop_min_length,
            "dataset.crop_share": settings.crop_share if settings.crop_min_length else None,
            "stages": [asdict(stage) for stage in config.stages] or None,
            "trainer.batch_warmup_tokens": config.trainer.batch_warmup_tokens,
            "trainer.batch_warmup_start": config.trainer.batch_warmup_start,
            "tokenizer.truncation": config.tokenizer.truncation,
            **{f"datacollator.{key}": value for key, value in asdict(config.datacollator).items()},
            "trainer.enforce_full_packed_batches": config.trainer.enforce_full_packed_batches,
            ROWS_PER_STEP: self.share.rows_per_step,
        }

    def training_batches(self) -> StepLoader | StreamLoader | StagedLoader:
        """The training batches of the whole run."""
        stages = self.stages
        if len(stages) == 1:
            return self.stage_loader(stages[0])
        streams = self.source.stream is not None
        return StagedLoader(
            [
                StageLoader(stage.micro_batches, partial(self.stage_loader, stage), streams)
                for stage in stages
            ]
        )

    def stage_loader(self, stage: Stage) -> StepLoader | StreamLoader:
        """The training batches of a stage."""
        if self.source.stream is not None:
            batches = StreamBatches(self.stream_rows(stage), self.stage_steps(stage))
            return StreamLoader(batches, stage.steps, self._workers())
        return StepLoader(self.micro_batches(stage), stage.steps, self._workers())

    def stage_steps(self, stage: Stage) -> Steps:
        """Which rows the steps of a stage take, counted from its first one.

        A stage whose rows are made like those of earlier ones continues their order.
        """
        trainer = stage.config.trainer
        share = replace(
            self.share,
            batch_size=trainer.per_device_train_batch_size,
            accumulation=trainer.gradient_accumulation_steps,
        )
        skipped = tuple(_span(one) for one in self.config.dataset.skip_steps)
        return Steps(share, skipped, offset=self._rows_before(stage))

    def micro_batches(self, stage: Stage | None = None) -> MicroBatches:
        """The training batches of indexed data, by their number in the stage (the first)."""
        stage = stage or self.stages[0]
        steps, packing = self.stage_steps(stage), self.packing_of(stage.config, train=True)
        maker = RowMaker(self.tokenizer, self.masking(stage), packing)
        if packing.crop is not None:
            rows = steps.offset + stage.steps * steps.share.rows_per_step
            plans = self._plans_of_epochs(packing, rows)
            epochs = [TokenRows(self.train_store, plan, maker) for plan in plans]
            return CroppedMicroBatches(epochs, self.config.seed, steps)
        plan = self._plan(self.train_store, packing)
        whole = self.config.trainer.enforce_full_packed_batches or not packing.packed
        order = Order(plan.num_rows, self.config.seed, steps.share.rows_per_step, whole)
        return MicroBatches(TokenRows(self.train_store, plan, maker), order, steps)

    def _rows_before(self, stage: Stage) -> int:
        """Rows that earlier stages take of this one's data."""
        return sum(
            one.steps * one.rows_per_step(self.share.ranks)
            for one in self.stages
            if one.first_step < stage.first_step and one.data_settings == stage.data_settings
        )

    def _plans_of_epochs(self, packing: Packing, rows: int) -> list[RowPlan]:
        plans: list[RowPlan] = []
        while sum(plan.num_rows for plan in plans) < rows:
            plans.append(self._plan(self.train_store, packing, epoch=len(plans)))
        return plans

    def val_dataloader(self) -> "DataLoader[MaskedBatch] | list[DataLoader[MaskedBatch]]":
        """This rank's evaluation batches: every row once over all ranks, masks always the same.

        A loader for each rate where ``datacollator.eval_mlm_probabilities`` names more.
        """
        if not self.has_validation:
            return []
        loaders = [self._evaluation_loader(rate) for rate in self.evaluation_rates]
        return loaders if len(loaders) > 1 else loaders[0]

    @property
    def evaluation_rates(self) -> list[float]:
        """``datacollator.mlm_probability``, and the further rates to evaluate at."""
        settings = self.config.datacollator
        return [settings.mlm_probability, *settings.eval_mlm_probabilities]

    def _evaluation_loader(self, rate: float) -> "DataLoader[MaskedBatch]":
        workers = self._workers()
        size = self.config.trainer.per_device_eval_batch_size
        budget = self.config.trainer.eval_max_batches
        batches = RowBatches(self._evaluation_rows(rate), size, budget)
        one_process = replace(workers, number=min(1, workers.number))
        return build_loader(batches, batches.numbers(self.share), one_process)

    def example_batches(self) -> list[MaskedBatch]:
        """Some evaluation text for the report; none where nothing is held out."""
        rows = self._evaluation_rows()
        if rows.plan.num_rows == 0:
            return []
        spread = np.linspace(0, rows.plan.num_rows, EXAMPLE_ROWS, endpoint=False, dtype=int)
        return [rows.batch([row], [row]) for row in dict.fromkeys(spread.tolist())]

    def stream_rows(self, stage: Stage | None = None) -> StreamRows:
        """The rows of the training stream in a stage (the first)."""
        stream, stage = self.source.stream, stage or self.stages[0]
        assert stream is not None
        packing = self.packing_of(stage.config, train=True)
        return StreamRows(
            source=stream,
            documents=self.source.train,
            maker=RowMaker(self.tokenizer, self.masking(stage), packing),
            shuffled=self.config.dataset.shuffle_buffer_size,
            readers=self.stream_readers,
        )

    @property
    def stream_readers(self) -> int:
        """Readers of the training stream."""
        kept = self.train_plan.info.documents
        return num_readers(self.config.dataset, self.train_store.info.documents, kept)

    def _evaluation_rows(self, rate: float | None = None) -> TokenRows:
        masking = self.masking(None)
        if rate is not None:
            masking = replace(masking, rate=MaskRate.constant(rate))
        maker = RowMaker(self.tokenizer, masking, self.packing)
        return TokenRows(self.eval_store, self.eval_plan, maker)

    def masking(self, stage: Stage | None) -> Masking:
        """How tokens are chosen and replaced in a stage; ``None``: in evaluation, which is always
        at one rate and under one seed."""
        if stage is None:
            return build_masking(self.config.datacollator, self.tokenizer, EVALUATION_SEED)
        settings, seed = stage.config.datacollator, self.config.seed
        return build_masking(settings, self.tokenizer, seed, self.total_steps, stage.first_step)

    def _store(self, documents: Documents, cache: Path) -> TokenStore:
        return token_store(cache, documents, self.tokenizer, self._processes)

    def _plan(self, store: TokenStore, packing: Packing, epoch: int = 0) -> RowPlan:
        recipe = {"store": store.info.digest, **asdict(packing), "version": PLAN_VERSION}
        folder = self._cache / "rows" / key_of({**recipe, "epoch": epoch})
        processes = self._processes
        publish(folder, lambda to: packing.write_plan(store.offsets, to, processes, epoch=epoch))
        return RowPlan.load(folder)

    @property
    def _cache(self) -> Path:
        return cache_folder(self.config.dataset.cache_dir)

    @property
    def _processes(self) -> int:
        return num_processes(self.config.dataset.num_proc)

    def _workers(self) -> Workers:
        return self.workers(self.config.dataset.num_workers, "dataset.num_workers")


def _span(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last) + 1)
