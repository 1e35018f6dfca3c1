"""The learning rate over a run: linear warm-up, then cosine or linear decay to a floor."""

from dataclasses import dataclass
from math import cos, pi

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from neobert.config.scheduler import SchedulerConfig
from neobert.console import get_logger

log = get_logger(__name__)

FIRST_FACTOR = 1e-4
"""Warm-up starts here instead of at 0, so that the first update is not lost."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule with all its lengths resolved, in optimizer steps."""

    name: str
    """``cosine`` or ``linear``: the shape of the decay."""

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

    warning: str | None = None
    """What was changed of the settings, and why; ``None`` if nothing was."""

    def factor(self, step: int) -> float:
        """Fraction of the full learning rate for update number ``step``, counted from 0."""
        if step < self.warmup:
            return FIRST_FACTOR + (1 - FIRST_FACTOR) * step / self.warmup
        if step >= self.decay_end:
            return self.final_ratio
        progress = (step - self.warmup) / (self.decay_end - self.warmup)
        return self.final_ratio + (1 - self.final_ratio) * self._height(progress)

    def _height(self, progress: float) -> float:
        """From 1 at ``progress=0`` to 0 at 1."""
        if self.name == "linear":
            return 1 - progress
        return (1 + cos(2 * pi * self.num_cycles * progress)) / 2


def resolve_schedule(config: SchedulerConfig, max_steps: int) -> Schedule:
    """Turn ``scheduler.*`` into numbers of steps for a run of ``max_steps``.

    Percentages win over steps. A warm-up that would fill the run is cut to a tenth of it, with a
    warning, since the learning rate would never be reached.
    """
    total = config.total_steps or max_steps
    warmup = config.warmup_steps
    if config.warmup_percent is not None:
        warmup = int(total * config.warmup_percent / 100)
    decay_end = config.decay_steps or total
    if config.decay_percent is not None:
        decay_end = int(total * config.decay_percent / 100)
    warning = None
    if warmup >= total:
        warning = (
            f"scheduler: the warm-up of {warmup} steps would fill the whole run of {total}, so it "
            f"takes a tenth, {total // 10} steps (scheduler.warmup_steps or .warmup_percent)"
        )
        log.warning("%s", warning)
        warmup = total // 10
    return Schedule(
        name=config.name.lower(),
        total=total,
        warmup=warmup,
        decay_end=max(decay_end, warmup + 1),
        final_ratio=config.final_lr_ratio,
        num_cycles=config.num_cycles,
        warning=warning,
    )


def build_scheduler(optimizer: Optimizer, schedule: Schedule) -> LambdaLR:
    """Apply ``schedule`` to every parameter group. To be stepped once per optimizer step."""

    def factor(step: int) -> float:  # of a plain function a checkpoint keeps nothing
        return schedule.factor(step)

    return LambdaLR(optimizer, factor)
