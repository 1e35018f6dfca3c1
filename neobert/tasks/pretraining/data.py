"""The data of pretraining: from settings to masked micro-batches, addressable by their step."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
from torch.utils.data import DataLoader

from neobert.batch import MaskedBatch
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.curriculum import MaskRate
from neobert.data.loader import (
    MicroBatches,
    RowBatches,
    RunRows,
    SourceRows,
    StepLoader,
    Workers,
    build_loader,
)
from neobert.data.masking import Masking, build_masking
from neobert.data.mixture import SourceOrder
from neobert.data.order import VERSION as ORDER_VERSION
from neobert.data.order import Order
from neobert.data.packing import Packing, RowPlan
from neobert.data.reader_order import ReaderOrder
from neobert.data.staged import StagedLoader
from neobert.data.stages import Stage, resolve_stages
from neobert.data.steps import Steps
from neobert.data.stream import StreamBatches, StreamLoader
from neobert.data.stream_readers import StreamRows
from neobert.data.token_rows import RowMaker, TokenRows
from neobert.data.token_store import TokenStore
from neobert.errors import ConfigError
from neobert.tasks.pretraining.data_report import (
    check_streams,
    describe_mixture,
    epoch_problems,
)
from neobert.tasks.pretraining.evaluation_sets import MaskedEvaluation
from neobert.tasks.pretraining.source_data import (
    SourceData,
    packing_of,
    row_plan,
    shares_of_sources,
    unigram_loss,
)
from neobert.tasks.pretraining.source_reader import SourceReader
from neobert.training.data import RunDataModule
from neobert.training.resume import ROWS_PER_STEP

log = get_logger(__name__)

EVALUATION_SEED = 0x5EED
"""Masks of evaluation never depend on the run's seed."""

EXAMPLE_ROWS = 64


class PretrainingDataModule(RunDataModule):
    """Documents → tokens → rows → batches. Everything is made once and cached."""

    def read(self) -> None:
        """Load or make tokenizer, token stores and row plans."""
        reader = SourceReader(self.config)
        self.sources = reader.read()
        self.tokenizer = reader.tokenizer
        names = ", ".join(source.source.train.name for source in self.sources)
        if self.is_stream:
            check_streams(self.sources, self.share.ranks)
        elif self.config.dataset.stream_readers is not None:
            log.warning(
                "dataset.stream_readers=%d has no effect: %s is not a stream (dataset.streaming)",
                *(self.config.dataset.stream_readers, names),
            )
        if self.config.dataset.mixture:
            self._check_epochs()

    def _check_epochs(self) -> None:
        """Log how often the run reads each source.

        Raises ``ConfigError`` for each that would be read more often than its ``max_epochs``.
        """
        kinds = {stage.data_settings: stage for stage in self.stages}
        rows = [0] * len(self.sources)
        epochs: list[float | None] = [0.0] * len(self.sources)
        for stage in kinds.values() if not self.is_stream else self.stages[:1]:
            packing = self.packing_of(stage.config, train=True)
            for number, count in enumerate(self.rows_of_sources(stage)):
                source, before = self.sources[number], epochs[number]
                rows[number] += count
                epochs[number] = None
                if source.is_whole and before is not None:
                    plan = self._plan(source.train_store, packing)
                    epochs[number] = before + count / max(1, plan.num_rows)
        log.info("%s", describe_mixture(self.sources, rows, epochs))
        problems = epoch_problems(self.sources, epochs, self.config.trainer.max_steps)
        if problems:
            raise ConfigError(*problems)

    @property
    def is_stream(self) -> bool:
        """Whether the training documents are streams, which have no index."""
        return self.sources[0].source.stream is not None

    def shares(self, config: Config) -> tuple[float, ...]:
        """The share of each source in the rows under the settings of a stage."""
        return shares_of_sources(config.dataset, self.sources)

    @property
    def packing(self) -> Packing:
        """How documents become rows of evaluation, and of a run without stages."""
        return self.packing_of(self.config)

    def packing_of(self, config: Config, train: bool = False) -> Packing:
        """How documents become rows under the settings of a stage."""
        return packing_of(config, self.tokenizer.wrapping, train)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run; one if none are set."""
        return resolve_stages(self.config, self.total_steps, self.share.ranks)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every row is seen once; a stream's whole run is one epoch."""
        if self.is_stream:
            return max(1, self.config.trainer.max_steps)
        rows = sum(source.train_plan.num_rows for source in self.sources)
        rows_per_step, fills_up = self.share.rows_per_step, not self._whole_steps
        return max(1, -(-rows // rows_per_step) if fills_up else rows // rows_per_step)

    @property
    def total_steps(self) -> int:
        """``trainer.max_steps``, else ``trainer.num_train_epochs`` in steps."""
        if self.is_stream and self.config.trainer.max_steps <= 0:
            raise ConfigError("trainer.max_steps must be above 0: a stream has no epochs")
        return super().total_steps

    @property
    def has_validation(self) -> bool:
        return super().has_validation and bool(self.evaluations)

    @property
    def unigram_loss(self) -> float:
        """Nats per token of the evaluation text under the word frequencies of the training text."""
        words = ~self.tokenizer.is_special[: len(self.sources[0].train_store.counts)]
        return unigram_loss(self.sources, self.shares(self.config), words)

    def fingerprint(self) -> dict[str, object]:
        """What a resumed run must share, by setting."""
        config, stream = self.config, self.is_stream
        settings, texts = config.dataset, {source.name: source.digest for source in self.sources}
        return {
            "dataset": texts if settings.mixture else texts[""],
            "dataset.mixture": self.shares(config) if settings.mixture else None,
            "dataset.order_version": ORDER_VERSION,
            "dataset.shuffle_buffer_size": settings.shuffle_buffer_size if stream else None,
            "dataset.stream_readers": self._readers() if stream else None,
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
        if len(self.stages) == 1:
            return self.stage_loader(self.stages[0])
        return StagedLoader(self.stages, self.stage_loader)

    def stage_loader(self, stage: Stage) -> StepLoader | StreamLoader:
        """The training batches of a stage."""
        if self.is_stream:
            return StreamLoader(self.stream_batches(stage), stage.steps, self._workers())
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
        skipped = tuple(_span(span) for span in self.config.dataset.skip_steps)
        stages = self._stages_in_order(stage)
        offset = next(row for earlier, row in stages if earlier.first_step == stage.first_step)
        return Steps(share, skipped, offset)

    def source_order(self, stage: Stage) -> SourceOrder:
        """The source of each row, by the row numbers of a stage."""
        stages = self._stages_in_order(stage)
        return SourceOrder.of((row, self.shares(ordered.config)) for ordered, row in stages)

    def sources_of(self, stage: Stage, numbers: Iterable[int]) -> list[str]:
        """The names of the sources of rows of a stage; none without a mixture."""
        if not self.config.dataset.mixture:
            return []
        if self.is_stream:
            return self._sources_of_stream(stage, numbers)
        order = self.source_order(stage)
        return [self.sources[order.row(number)[0]].name for number in numbers]

    def _sources_of_stream(self, stage: Stage, numbers: Iterable[int]) -> list[str]:
        """The same of streams, whose readers are dealt from the first row of the run on."""
        order: ReaderOrder | None = None
        for ordered, first in self._stages_in_order(stage):
            batches = self.stream_batches(ordered)
            batches.begun = first, order.rows_before(first) if order else None
            order = batches.reader_order()
            if ordered.first_step == stage.first_step:
                readers = [order.row(number)[0] for number in numbers]
                return [self.sources[batches.source_of(reader)].name for reader in readers]
        raise AssertionError(f"{stage.name} is no stage of the run")

    def _stages_in_order(self, stage: Stage) -> list[tuple[Stage, int]]:
        """The stages that continue each other's rows, among them ``stage``, and the number of the
        first row of each. A stream continues in every stage."""
        same = [other for other in self.stages if other.data_settings == stage.data_settings]
        stages = self.stages if self.is_stream else same
        counts = (other.steps * other.rows_per_step(self.share.ranks) for other in stages)
        return list(zip(stages, accumulate(counts, initial=0), strict=False))

    def rows_of_sources(self, stage: Stage) -> list[int]:
        """Rows that the run takes of each source, made like those of a stage."""
        stages = self._stages_in_order(stage)
        last, first = stages[-1]
        skipped = sum(len(_span(span)) for span in self.config.dataset.skip_steps)
        steps = last.steps + skipped
        return self.source_order(stage).counts(first + steps * last.rows_per_step(self.share.ranks))

    def micro_batches(self, stage: Stage | None = None) -> MicroBatches:
        """The training batches of indexed data, by their number in the stage (the first)."""
        stage = stage or self.stages[0]
        steps, packing = self.stage_steps(stage), self.packing_of(stage.config, train=True)
        maker = RowMaker(self.tokenizer, self.masking(stage), packing)
        rows = [
            self._rows(source, maker, count, steps.share.rows_per_step)
            for source, count in zip(self.sources, self.rows_of_sources(stage), strict=True)
        ]
        return MicroBatches(RunRows(rows, self.source_order(stage)), maker, steps)

    def _rows(
        self, source: SourceData, maker: RowMaker, count: int, rows_per_step: int
    ) -> SourceRows:
        """The rows of a source, ``count`` of which the run takes."""
        store, packing = source.train_store, maker.packing
        plans = [self._plan(store, packing)]
        while packing.crop is not None and sum(plan.num_rows for plan in plans) < count:
            plans.append(self._plan(store, packing, epoch=len(plans)))
        whole_steps = self._whole_steps or packing.crop is not None
        order = Order(plans[0].num_rows, self.config.seed, rows_per_step, whole_steps)
        return SourceRows([TokenRows(store, plan, maker) for plan in plans], order)

    @property
    def _whole_steps(self) -> bool:
        """Whether steps run on into the next epoch."""
        whole = self.config.trainer.enforce_full_packed_batches or not self.packing.packed
        return whole or len(self.sources) > 1

    def val_dataloader(self) -> "DataLoader[MaskedBatch] | list[DataLoader[MaskedBatch]]":
        """This rank's evaluation batches: every row once over all ranks, masks always the same.

        A loader for each of ``evaluations``.
        """
        if not self.has_validation:
            return []
        loaders = [self._evaluation_loader(evaluation) for evaluation in self.evaluations]
        return loaders if len(loaders) > 1 else loaders[0]

    @cached_property
    def evaluations(self) -> tuple[MaskedEvaluation, ...]:
        """The evaluation text of each source at ``datacollator.mlm_probability`` and at
        ``eval_mlm_probabilities``."""
        rates = [None, *self.config.datacollator.eval_mlm_probabilities]
        shared = zip(self.sources, self.shares(self.config), strict=True)
        held_out = [(source, share) for source, share in shared if source.eval_plan.num_rows]
        is_weighted = any(share for _, share in held_out)
        return tuple(
            MaskedEvaluation(
                source.name, rate, source.tokens_per_byte, share if is_weighted else 1.0
            )
            for source, share in held_out
            for rate in rates
        )

    def _evaluation_loader(self, evaluated: MaskedEvaluation) -> "DataLoader[MaskedBatch]":
        workers = self._workers()
        size = self.config.trainer.per_device_eval_batch_size
        budget = self.config.trainer.eval_max_batches
        source = next(candidate for candidate in self.sources if candidate.name == evaluated.name)
        batches = RowBatches(self._evaluation_rows(source, evaluated.rate), size, budget)
        one_process = replace(workers, number=min(1, workers.number))
        return build_loader(batches, batches.numbers(self.share), one_process)

    def example_batches(self) -> list[MaskedBatch]:
        """Some evaluation text for the report; none where nothing is held out."""
        sets = [source for source in self.sources if source.eval_plan.num_rows]
        batches: list[MaskedBatch] = []
        for source in sets:
            rows = self._evaluation_rows(source)
            count = EXAMPLE_ROWS // len(sets)
            spread = np.linspace(0, rows.plan.num_rows, count, endpoint=False, dtype=int)
            batches += [rows.batch([row], [row]) for row in dict.fromkeys(spread.tolist())]
        return batches

    def stream_batches(self, stage: Stage | None = None) -> StreamBatches:
        """The training batches of streams, from the first of the stage (the first) on."""
        stage = stage or self.stages[0]
        streams = [self._stream_rows(source, stage) for source in self.sources]
        return StreamBatches(streams, self.stage_steps(stage), self.source_order(stage))

    def _stream_rows(self, source: SourceData, stage: Stage) -> StreamRows:
        stream, settings = source.source.stream, source.settings
        assert stream is not None
        packing = self.packing_of(stage.config, train=True)
        return StreamRows(
            source=stream,
            documents=source.source.train,
            maker=RowMaker(self.tokenizer, self.masking(stage), packing),
            shuffled=self.config.dataset.shuffle_buffer_size,
            readers=source.readers,
            max_epochs=settings.max_epochs,
            setting=settings.key,
        )

    def _readers(self) -> object:
        """Readers of the training streams: of one their number, of several by name."""
        readers = {source.name: source.readers for source in self.sources}
        return readers if self.config.dataset.mixture else readers[""]

    def _evaluation_rows(self, source: SourceData, rate: float | None = None) -> TokenRows:
        masking = self.masking(None)
        if rate is not None:
            masking = replace(masking, rate=MaskRate.constant(rate))
        maker = RowMaker(self.tokenizer, masking, self.packing)
        return TokenRows(source.eval_store, source.eval_plan, maker)

    def masking(self, stage: Stage | None) -> Masking:
        """How tokens are chosen and replaced in a stage; ``None``: in evaluation, which is always
        at one rate and under one seed."""
        if stage is None:
            return build_masking(self.config.datacollator, self.tokenizer, EVALUATION_SEED)
        settings, seed = stage.config.datacollator, self.config.seed
        return build_masking(settings, self.tokenizer, seed, self.total_steps, stage.first_step)

    def _plan(self, store: TokenStore, packing: Packing, epoch: int = 0) -> RowPlan:
        return row_plan(store, packing, self.config.dataset, epoch)

    def _workers(self) -> Workers:
        return self.workers(self.config.dataset.num_workers, "dataset.num_workers")


def _span(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last) + 1)
