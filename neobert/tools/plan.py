"""What a pretraining run will take: ``python -m neobert.tools.plan experiment=modernbert_base``.

Takes the settings of ``python -m neobert.train`` and shows tokens, floating-point operations,
stages, memory by part, and hours on named hardware. Reads no data and makes no weights, so what
depends on data is an assumption that an option sets: full rows, the length of documents, the size
of the vocabulary.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from neobert.batch import PackedBatch
from neobert.config.compose import compose_config
from neobert.config.root import Config
from neobert.console import get_logger, show_messages
from neobert.data.curriculum import mask_rate
from neobert.data.stages import Stage, resolve_stages
from neobert.errors import ConfigError
from neobert.failures import report_failure
from neobert.losses.mlm import masked_lm_loss
from neobert.model.flops import Flops, training_flops
from neobert.model.heads import MaskedLM
from neobert.optim.build import build_optimizer
from neobert.tools.arguments import number_from
from neobert.training.cpu import tune_cpu_if_enabled
from neobert.training.peak import DATASHEET
from neobert.training.precision import resolve_precision
from neobert.training.step_memory import StepMemory, final_states, meta_model, step_memory
from neobert.training.strategy import planned_processes, runs_on_cuda, with_shared_batch

log = get_logger("neobert.tools.plan")

HARDWARE = ("A100", "H100", "H200")
MEASURED_FLOPS = 1e12
"""Operations of the micro-batch that is timed, at most, unless a single row has more."""

REPEATS = 5
"""Timed micro-batches and updates, of which the median counts."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What a stage will take, over all devices."""

    stage: Stage
    rows: int
    """Rows of an optimizer step."""

    tokens: int
    rates: tuple[float, float]
    """Mask rate of the first and the last step."""

    targets: float
    flops: float
    memory: StepMemory
    """On one device that holds the whole model."""


def stage_plans(config: Config, vocab_size: int, document_tokens: int | None) -> list[StagePlan]:
    """Plan of each stage of a run; documents have ``document_tokens``, by default a row's."""
    if config.task != "pretraining":
        raise ConfigError(f"task={config.task}: only pretraining can be planned")
    if config.trainer.max_steps <= 0:
        raise ConfigError(
            f"trainer.max_steps={config.trainer.max_steps}: a plan needs a number of steps, since "
            "the length of an epoch depends on the data"
        )
    config = with_shared_batch(config)
    cost = training_flops(meta_model(config, vocab_size).model)
    total, ranks = config.trainer.max_steps, planned_processes(config.trainer)
    return [
        _stage_plan(stage, total, ranks, cost, vocab_size, document_tokens)
        for stage in resolve_stages(config, total, ranks)
    ]


def _stage_plan(
    stage: Stage, total: int, ranks: int, cost: Flops, vocab_size: int, document_tokens: int | None
) -> StagePlan:
    length, rate = stage.config.row_length(), mask_rate(stage.config.datacollator, total)
    rows = stage.rows_per_step(ranks)
    tokens = stage.steps * rows * length
    rates = [rate.at(step) for step in range(stage.first_step, stage.end_step)]
    targets = tokens * sum(rates) / len(rates)
    states = final_states(stage.config, float(tokens), targets)
    pairs = float(tokens * min(document_tokens or length, length))
    micro = stage.config.trainer.per_device_train_batch_size * length
    return StagePlan(
        stage=stage,
        rows=rows,
        tokens=tokens,
        rates=(rates[0], rates[-1]),
        targets=targets,
        flops=cost.of(float(tokens), pairs, targets, states),
        memory=step_memory(stage.config, vocab_size, micro, round(micro * rate.highest)),
    )


def default_vocabulary(config: Config) -> int:
    """Rows of the embedding as far as the settings tell, a multiple of 128."""
    size = config.tokenizer.train_vocab_size or config.model.vocab_size
    return size + -size % 128


class StepTimer:
    """Times forward and backward pass of a micro-batch and an update of this machine."""

    def __init__(
        self, config: Config, vocab_size: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """``clock`` tells the time in seconds."""
        self.clock = clock
        self.on_cuda = runs_on_cuda(config.trainer)
        self.device = torch.device("cuda" if self.on_cuda else "cpu")
        self.half = resolve_precision(config.trainer, self.on_cuda).lightning == "bf16-mixed"
        self.model = MaskedLM(config.model, vocab_size, config.model.pad_token_id).to(self.device)
        self.model.model.gradient_checkpointing = config.trainer.gradient_checkpointing
        heads = config.model.num_attention_heads
        parameters = self.model.named_parameters()
        self.optimizer = build_optimizer(config.optimizer, parameters, heads)

    def seconds(self, plan: StagePlan, document_tokens: int | None) -> float:
        """Seconds of an optimizer step of a stage."""
        settings, length = plan.stage.config.trainer, plan.stage.config.row_length()
        rows = settings.per_device_train_batch_size
        per_row = plan.flops / (plan.stage.steps * plan.rows)
        timed = max(1, min(rows, round(MEASURED_FLOPS / per_row)))
        batch = synthetic_batch(timed, length, document_tokens or length).to(self.device)
        targets = round(timed * length * plan.targets / plan.tokens)
        positions = torch.linspace(0, timed * length - 1, targets, device=self.device).long()
        micro = self._median(lambda: self._micro_batch(batch, positions))
        update = self._median(self.optimizer.step)
        return settings.gradient_accumulation_steps * micro * rows / timed + update

    def _micro_batch(self, batch: PackedBatch, positions: Tensor) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            hidden = self.model.train().hidden(batch, positions)
            weight, bias = self.model.decoder_weight, self.model.decoder.bias
            labels = batch.input_ids[positions]
            loss = masked_lm_loss(hidden, weight, labels, bias).sum
        self.optimizer.zero_grad()
        (loss / len(positions)).backward()

    def _median(self, work: Callable[[], object]) -> float:
        work()  # the first one allocates
        times = []
        for _ in range(REPEATS):
            self._wait()
            start = self.clock()
            work()
            self._wait()
            times.append(self.clock() - start)
        return median(times)

    def _wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize(self.device)


def synthetic_batch(rows: int, length: int, document_tokens: int) -> PackedBatch:
    """Full rows of ``length`` tokens; documents have 0.5 to 1.5 times ``document_tokens``."""
    mean = min(document_tokens, length)
    lengths: list[int] = []
    for row in range(rows):
        remaining, number = length, row
        while remaining:
            size = mean if mean == length else max(1, round(mean * (0.5 + number % 5 / 4)))
            lengths.append(min(size, remaining))
            remaining, number = remaining - lengths[-1], number + 1
    ids = torch.arange(rows * length) % 100 + 1
    return PackedBatch.from_lengths(ids, torch.tensor(lengths), row_length=length)


def hours_on(hardware: str, flops: float, config: Config, mfu: float) -> float:
    """Hours of the run on its devices, if they reach ``mfu`` of the datasheet's rate."""
    half = config.trainer.mixed_precision != "no"
    place = 0 if half else 1 if config.trainer.tf32 else 2
    rate = DATASHEET[hardware][place] * 1e12 * planned_processes(config.trainer)
    return flops / (rate * mfu) / 3600


def tables(
    config: Config, plans: Sequence[StagePlan], options: argparse.Namespace, vocab_size: int
) -> Iterator[Table]:
    """What is shown."""
    yield _stages_table(plans)
    yield _memory_table(plans)
    devices, flops = planned_processes(config.trainer), sum(plan.flops for plan in plans)
    table = Table("hardware", "hours", "rate", title=f"time on {devices} device(s)")
    for hardware in HARDWARE:
        hours = hours_on(hardware, flops, config, options.mfu)
        table.add_row(hardware, f"{hours:,.3g}", f"assumed: {options.mfu:.0%} of the datasheet's")
    if options.measure:
        timer = StepTimer(config, vocab_size)
        steps = [timer.seconds(plan, options.document_tokens) for plan in plans]
        total = sum(plan.stage.steps * each for plan, each in zip(plans, steps, strict=True))
        each = ", ".join(f"{seconds:.3g}" for seconds in steps)
        table.add_row("this machine", f"{total / 3600:,.3g}", f"measured: {each} s per step")
    yield table


def _stages_table(plans: Sequence[StagePlan]) -> Table:
    table = Table(
        *("stage", "steps", "row", "rows/step", "masked", "tokens", "FLOPs"), title="stages"
    )
    for number, plan in enumerate(plans):
        first, last = plan.rates
        rate = f"{first:.3g}" if first == last else f"{first:.3g} → {last:.3g}"
        length = f"{plan.stage.config.row_length():,}"
        name = plan.stage.name or str(number + 1)
        counts = f"{plan.stage.steps:,}", length, f"{plan.rows:,}", rate
        table.add_row(name, *counts, f"{plan.tokens / 1e6:,.1f} M", f"{plan.flops:.3g}")
    tokens, flops = sum(plan.tokens for plan in plans), sum(plan.flops for plan in plans)
    steps = sum(plan.stage.steps for plan in plans)
    table.add_section()
    table.add_row("total", f"{steps:,}", "", "", "", f"{tokens / 1e6:,.1f} M", f"{flops:.3g}")
    return table


def _memory_table(plans: Sequence[StagePlan]) -> Table:
    largest = max(plans, key=lambda plan: plan.memory.total).memory
    table = Table("part", "MiB", title="memory of a device at its peak")
    for part in fields(largest):
        table.add_row(part.name, f"{getattr(largest, part.name) / 2**20:,.0f}")
    table.add_section()
    table.add_row("total", f"{largest.total / 2**20:,.0f}")
    return table


def plan_arguments(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """This program's own options, and the settings."""
    parser = argparse.ArgumentParser(
        prog="python -m neobert.tools.plan",
        description=__doc__.partition("\n")[0] if __doc__ else None,
        epilog="All other words are settings, as for python -m neobert.train.",
    )
    parser.add_argument(
        "--document-tokens", type=number_from(1), help="of a document, on average; default: a row's"
    )
    parser.add_argument(
        "--vocab-size",
        type=number_from(1),
        help="rows of the embedding; default: tokenizer.train_vocab_size or model.vocab_size",
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="share of the datasheet's rate that is reached"
    )
    parser.add_argument("--measure", action="store_true", help="time some steps on this machine")
    return parser.parse_known_args(words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the plan; returns an exit code as ``neobert.train`` does."""
    options, words = plan_arguments(sys.argv[1:] if arguments is None else arguments)
    show_messages()
    try:
        if not 0 < options.mfu <= 1:
            raise ConfigError(f"--mfu {options.mfu}: must be above 0 and at most 1")
        config = compose_config(words)
        vocab_size = options.vocab_size or default_vocabulary(config)
        tune_cpu_if_enabled(config.trainer)
        plans = stage_plans(config, vocab_size, options.document_tokens)
        numbers = sum(
            parameter.numel() for parameter in meta_model(config, vocab_size).parameters()
        )
        log.info("%s parameters, a vocabulary of %s", f"{numbers:,}", f"{vocab_size:,}")
        for table in tables(config, plans, options, vocab_size):
            Console().print(table)
    except BaseException as error:
        return report_failure(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
