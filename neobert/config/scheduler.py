"""The ``scheduler`` section: the learning rate over the run."""

from dataclasses import dataclass

from neobert.config.checks import above, at_least, one_of, within
from neobert.config.section import Section

SCHEDULES = ("cosine", "linear", "wsd", "constant")
DECAY_SHAPES = ("linear", "cosine", "sqrt")


@dataclass(kw_only=True)
class SchedulerConfig(Section):
    """Linear warm-up, then decay to a floor, at once or after a stable phase."""

    name: str = "cosine"
    """``cosine`` or ``linear`` (decay from the warm-up on), ``wsd`` (warm-up, stable, decay) or
    ``constant`` (no decay)."""

    warmup_steps: int = 10000
    """Steps of warm-up; a warm-up as long as the whole run is cut to a tenth of it."""

    total_steps: int | None = None
    """Steps that percentages refer to; ``null`` or 0: those of the run."""

    num_cycles: float = 0.5
    """Waves of the cosine; 0.5 falls once."""

    decay_steps: int | None = None
    """Step at which the floor is reached; ``null`` or 0: the end of the run."""

    final_lr_ratio: float = 0.1
    """The floor, as a fraction of ``optimizer.lr``, in [0, 1]."""

    warmup_percent: float | None = None
    """Warm-up in percent of the run, 0 to 100; wins over ``warmup_steps``."""

    decay_percent: float | None = None
    """Decay in percent of the run, 0 to 100; wins over ``decay_steps``."""

    decay_length: int | None = None
    """``wsd``: steps of the final decay; ``null`` or 0: ``decay_length_percent``."""

    decay_length_percent: float = 10.0
    """``wsd``: length of the final decay in percent of the run, 0 to 100."""

    decay_shape: str = "linear"
    """``wsd``: ``linear``, ``cosine`` or ``sqrt`` (1 - sqrt of the progress, as in ModernBERT)."""

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        problems = one_of("scheduler.name", self.name, SCHEDULES)
        problems += at_least("scheduler.warmup_steps", self.warmup_steps, 0)
        problems += at_least("scheduler.total_steps", self.total_steps, 0)
        problems += at_least("scheduler.decay_steps", self.decay_steps, 0)
        problems += at_least("scheduler.decay_length", self.decay_length, 0)
        problems += one_of("scheduler.decay_shape", self.decay_shape, DECAY_SHAPES)
        percent = self.decay_length_percent
        problems += within("scheduler.decay_length_percent", percent, 0, 100)
        problems += above("scheduler.num_cycles", self.num_cycles, 0)
        problems += within("scheduler.final_lr_ratio", self.final_lr_ratio, 0, 1)
        problems += within("scheduler.warmup_percent", self.warmup_percent, 0, 100)
        return problems + within("scheduler.decay_percent", self.decay_percent, 0, 100)
