"""What a program adds to a run beside its settings."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from neobert.config.checks import require
from neobert.config.root import Config
from neobert.errors import ConfigError

KINDS: dict[str, type] = {"callbacks": Callback, "loggers": Logger}


@dataclass(frozen=True, slots=True)
class Extras:
    """Objects of Lightning that a run gets in addition to its own."""

    callbacks: Sequence[Callback] = ()
    """Called before those of the run."""

    loggers: Sequence[Logger] = ()
    """Get the numbers of ``metrics.csv`` too."""


def check_targets(config: Config) -> None:
    """Raise ``ConfigError`` if a class of ``callbacks`` or ``loggers`` cannot be used."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # modules of the user; last, so that they hide no other
    problems = []
    for key, kind in KINDS.items():
        for name, entry in getattr(config, key).items():
            try:
                target = get_object(entry["_target_"])
            except (ImportError, ValueError) as error:
                problems.append(f"{key}.{name}: {' '.join(str(error).split())}")
            else:
                problems += require(
                    issubclass(target, kind) if isinstance(target, type) else callable(target),
                    f"{key}.{name}: {entry['_target_']} is not a Lightning {kind.__name__}",
                )
    if problems:
        raise ConfigError(*problems)


def configured(config: Config, key: str) -> list[Any]:
    """The objects that ``callbacks`` or ``loggers`` of the settings describe.

    Raises ``ConfigError`` for what cannot be made.
    """
    objects = []
    for name, entry in getattr(config, key).items():
        try:
            value = instantiate(entry)
        except InstantiationException as error:
            raise ConfigError(f"{key}.{name}: {' '.join(str(error).split())}") from error
        if not isinstance(value, KINDS[key]):
            raise ConfigError(
                f"{key}.{name}: {entry['_target_']} makes no Lightning {KINDS[key].__name__}"
            )
        objects.append(value)
    return objects
