"""The learning rate over a run, a pure function of the step.

``cosine`` and ``linear`` decay from the end of the warm-up on. ``wsd`` (warm-up, stable, decay:
arXiv 2405.18392) holds the full rate until the final decay, whose ``sqrt`` shape,
``1 - sqrt(progress)``, is ModernBERT's (arXiv 2412.13663, section 2.2). ``constant`` never decays:
the trunk from which decays branch off.
"""

from dataclasses import dataclass
from math import cos, pi, sqrt

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from neobert.config.scheduler import SchedulerConfig
from neobert.console import get_logger

log = get_logger(__name__)

FIRST_FACTOR = 1e-4
"""Warm-up starts here instead of at 0, so that the first update is not lost."""


@dataclass(frozen=True, slots=True)
class LrStage:
    """Steps with a learning rate of their own (``stages[i].lr``)."""

    first_step: int
    end_step: int
    ratio: float
    """Of the full learning rate, at the first step."""

    decay: str | None = None
    """``linear``, ``cosine`` or ``sqrt``: decay over the stage; ``None``: the rate is held."""

    final_ratio: float = 0.0
    """End of the decay, as a fraction of ``ratio``."""

    def factor(self, step: int) -> float:
        """Fraction of the full learning rate for update number ``step`` of the run."""
        if self.decay is None:
            return self.ratio
        progress = (step - self.first_step) / (self.end_step - self.first_step)
        remaining = self.final_ratio + (1 - self.final_ratio) * decay_height(self.decay, progress)
        return self.ratio * remaining


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule with all its lengths resolved, in optimizer steps."""

    name: str
    """One of ``neobert.config.scheduler.SCHEDULES``."""

    total: int
    """Steps that percentages refer to."""

    warmup: int
    """Steps before the full learning rate."""

    decay_end: int
    """Step at which the floor is reached; always after the warm-up."""

    final_ratio: float
    """The floor, as a fraction of the full learning rate."""

    num_cycles: float = 0.5
    """Waves of the cosine between warm-up and ``decay_end``; 0.5 falls once."""

    decay_start: int | None = None
    """First step of the decay; ``None``: the end of the warm-up."""

    decay_shape: str | None = None
    """Shape of the decay: ``linear``, ``cosine`` or ``sqrt``; ``None``: ``name``."""

    stages: tuple[LrStage, ...] = ()
    """Stages whose learning rate is their own; the warm-up applies to them too."""

    def factor(self, step: int) -> float:
        """Fraction of the full learning rate for update number ``step``, counted from 0."""
        if step < self.warmup:
            rise = FIRST_FACTOR + (1 - FIRST_FACTOR) * step / self.warmup
            return rise * (self._of_stage(step) or 1.0)
        own = self._of_stage(step)
        return self._decayed(step) if own is None else own

    def _of_stage(self, step: int) -> float | None:
        for stage in self.stages:
            is_last = stage.end_step >= self.total  # holds its end after the run
            if stage.first_step <= step < stage.end_step or (is_last and step >= stage.end_step):
                return stage.factor(min(step, stage.end_step))
        return None

    def _decayed(self, step: int) -> float:
        start = self.warmup if self.decay_start is None else self.decay_start
        if self.name == "constant" or step < start:
            return 1.0
        if step >= self.decay_end:
            return self.final_ratio
        progress = (step - start) / (self.decay_end - start)
        shape = self.decay_shape or self.name
        height = decay_height(shape, progress, self.num_cycles)
        return self.final_ratio + (1 - self.final_ratio) * height


def decay_height(shape: str, progress: float, num_cycles: float = 0.5) -> float:
    """From 1 at ``progress=0`` to 0 at 1, by ``shape``: ``linear``, ``sqrt`` or ``cosine``."""
    if shape == "linear":
        return 1 - progress
    if shape == "sqrt":
        return 1 - sqrt(progress)
    return (1 + cos(2 * pi * num_cycles * progress)) / 2


def resolve_schedule(config: SchedulerConfig, max_steps: int) -> Schedule:
    """Turn ``scheduler.*`` into numbers of steps for a run of ``max_steps``.

    Percentages win over steps, but ``decay_length`` over its percentage, which has a default. A
    warm-up that would fill the run is cut to a tenth of it, with a warning, since the learning rate
    would never be reached; so is a ``wsd`` decay that would begin within the warm-up.
    """
    total = config.total_steps or max_steps
    warmup = config.warmup_steps
    if config.warmup_percent is not None:
        warmup = int(total * config.warmup_percent / 100)
    decay_end = config.decay_steps or total
    if config.decay_percent is not None:
        decay_end = int(total * config.decay_percent / 100)
    if warmup >= total:
        log.warning(
            "scheduler: the warm-up of %d steps would fill the whole run of %d, so it takes a "
            "tenth, %d steps (scheduler.warmup_steps or .warmup_percent)",
            *(warmup, total, total // 10),
        )
        warmup = total // 10
    decay_end = max(decay_end, warmup + 1)
    decay_start, decay_shape = None, None
    if config.name.lower() == "wsd":
        decay_shape = config.decay_shape
        length = config.decay_length or round(total * config.decay_length_percent / 100)
        decay_start = max(decay_end - length, warmup)
        if decay_end - length < warmup:
            log.warning(
                "scheduler: the decay of %d steps would begin before the warm-up ends, so it takes "
                "%d steps (scheduler.decay_length or .warmup_steps)",
                *(length, decay_end - warmup),
            )
    return Schedule(
        name=config.name.lower(),
        total=total,
        warmup=warmup,
        decay_end=decay_end,
        final_ratio=config.final_lr_ratio,
        num_cycles=config.num_cycles,
        decay_start=decay_start,
        decay_shape=decay_shape,
    )


def build_scheduler(optimizer: Optimizer, schedule: Schedule) -> LambdaLR:
    """Apply ``schedule`` to every parameter group. To be stepped once per optimizer step."""

    def factor(step: int) -> float:  # of a plain function a checkpoint keeps nothing
        return schedule.factor(step)

    return LambdaLR(optimizer, factor)
