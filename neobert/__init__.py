"""Train, evaluate and publish NeoBERT-class encoders: see docs/python.md.

The names are imported when they are used: ``import neobert`` loads neither torch nor Hydra.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neobert.config.root import Config
    from neobert.errors import ConfigError, RunError
    from neobert.library import Run, compose, evaluate
    from neobert.model.encode import TextEncoder
    from neobert.training.start import load

__version__ = "0.1.0"

_PLACES = {
    "Config": "neobert.config.root",
    "ConfigError": "neobert.errors",
    "Run": "neobert.library",
    "RunError": "neobert.errors",
    "TextEncoder": "neobert.model.encode",
    "compose": "neobert.library",
    "evaluate": "neobert.library",
    "load": "neobert.training.start",
}
_CALLABLE = ("export", "train")
"""Modules that can be called too: ``neobert.train(config)``."""

__all__ = [
    "Config",
    "ConfigError",
    "Run",
    "RunError",
    "TextEncoder",
    "__version__",
    "compose",
    "evaluate",
    "export",
    "load",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name in _CALLABLE:
        return import_module(f"neobert.{name}")
    raise AttributeError(f"module 'neobert' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
