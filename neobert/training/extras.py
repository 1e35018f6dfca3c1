"""What a program adds to a run beside its settings."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger


@dataclass(frozen=True, slots=True)
class Extras:
    """Objects of Lightning that a run gets in addition to its own."""

    callbacks: Sequence[Callback] = ()
    """Called before those of the run."""

    loggers: Sequence[Logger] = ()
    """Get the numbers of ``metrics.csv`` too."""
