"""The ``scheduler`` section: the learning rate over the run."""

from dataclasses import dataclass
from typing import Annotated

from neobert.config.checks import Above0, Count, Percentage, Share, one_of
from neobert.config.section import Section

SCHEDULES = ("cosine", "linear", "wsd", "constant")
DecayShape = Annotated[str, one_of("linear", "cosine", "sqrt")]


@dataclass(kw_only=True)
class SchedulerConfig(Section):
    """Linear warm-up, then decay to a floor, at once or after a stable phase."""

    name: Annotated[str, one_of(*SCHEDULES)] = "cosine"
    """``cosine`` or ``linear`` (decay from the warm-up on), ``wsd`` (warm-up, stable, decay) or
    ``constant`` (no decay)."""

    warmup_steps: Count = 10000
    """Steps of warm-up; a warm-up as long as the whole run is cut to a tenth of it."""

    total_steps: Count | None = None
    """Steps that percentages refer to; ``null`` or 0: those of the run."""

    num_cycles: Above0 = 0.5
    """Waves of the cosine; 0.5 falls once."""

    decay_steps: Count | None = None
    """Step at which the floor is reached; ``null`` or 0: the end of the run."""

    final_lr_ratio: Share = 0.1
    """The floor, as a fraction of ``optimizer.lr``, in [0, 1]."""

    warmup_percent: Percentage | None = None
    """Warm-up in percent of the run, 0 to 100; wins over ``warmup_steps``."""

    decay_percent: Percentage | None = None
    """Decay in percent of the run, 0 to 100; wins over ``decay_steps``."""

    decay_length: Count | None = None
    """``wsd``: steps of the final decay; ``null`` or 0: ``decay_length_percent``."""

    decay_length_percent: Percentage = 10.0
    """``wsd``: length of the final decay in percent of the run, 0 to 100."""

    decay_shape: DecayShape = "linear"
    """``wsd``: ``linear``, ``cosine`` or ``sqrt`` (1 - sqrt of the progress, as in ModernBERT)."""
