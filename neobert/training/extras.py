"""What a program adds to a run beside its settings."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from neobert.config.root import Config
from neobert.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Extras:
    """Objects of Lightning that a run gets in addition to its own."""

    callbacks: Sequence[Callback] = ()
    """Called before those of the run."""

    loggers: Sequence[Logger] = ()
    """Get the numbers of ``metrics.csv`` too."""


def configured_callbacks(config: Config) -> list[Callback]:
    """The callbacks that ``callbacks`` describes; raises ``ConfigError`` for what is none."""
    made = []
    for name, entry in config.callbacks.items():
        try:
            callback = instantiate(entry)
        except InstantiationException as error:
            problem = " ".join(str(error).split())
            raise ConfigError(f"callbacks.{name}: {problem}") from error
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks.{name}: {entry['_target_']} is not a Lightning Callback")
        made.append(callback)
    return made
