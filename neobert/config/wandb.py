"""The ``wandb`` section: logging to Weights & Biases."""

from dataclasses import dataclass, field

from neobert.config.checks import at_least, one_of
from neobert.config.section import Section

MODES = ("online", "offline", "disabled")
RESUMES = ("never", "allow", "must", "auto")
WATCHES = ("gradients", "parameters", "weights", "all", "off")


@dataclass(kw_only=True)
class WandbConfig(Section):
    """A W&B run beside ``metrics.csv``."""

    enabled: bool = False
    """Log to W&B. A ``wandb`` section in a ``config_path`` file turns it on unless it says no."""

    project: str = "neo-bert"
    """Project."""

    entity: str | None = None
    """User or team."""

    name: str | None = None
    """Name of the run."""

    tags: list[str] = field(default_factory=list)
    """Tags of the run."""

    mode: str = "online"
    """``online``, ``offline`` or ``disabled``."""

    log_interval: int = 100
    """Training metrics go to W&B at the log lines (``trainer.logging_steps``) whose step is a
    multiple of this; where it is set alone, it sets ``trainer.logging_steps`` too."""

    resume: str = "never"
    """``never``, ``allow``, ``must`` or ``auto``; the run id is kept in the run folder."""

    dir: str = "logs/wandb"
    """Folder of W&B's own files."""

    watch: str | None = None
    """Histograms in W&B: ``gradients``, ``parameters`` (``weights``), ``all``; ``null``/``off``."""

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        problems = one_of("wandb.mode", self.mode, MODES)
        problems += one_of("wandb.resume", self.resume, RESUMES)
        problems += at_least("wandb.log_interval", self.log_interval, 1)
        return problems + ([] if self.watch is None else one_of("wandb.watch", self.watch, WATCHES))
