"""The ``wandb`` section: logging to Weights & Biases."""

from dataclasses import dataclass, field
from typing import Annotated

from neobert.config.checks import Positive, one_of
from neobert.config.section import Section


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

    mode: Annotated[str, one_of("online", "offline", "disabled")] = "online"
    """``online``, ``offline`` or ``disabled``."""

    log_interval: Positive = 100
    """Training metrics go to W&B at the log lines (``trainer.logging_steps``) whose step is a
    multiple of this; where it is set alone, it sets ``trainer.logging_steps`` too."""

    resume: Annotated[str, one_of("never", "allow", "must", "auto")] = "never"
    """``never``, ``allow``, ``must`` or ``auto``; the run id is kept in the run folder."""

    dir: str = "logs/wandb"
    """Folder of W&B's own files."""

    watch: Annotated[str, one_of("gradients", "parameters", "weights", "all", "off")] | None = None
    """Histograms in W&B: ``gradients``, ``parameters`` (``weights``), ``all``; ``null``/``off``."""
