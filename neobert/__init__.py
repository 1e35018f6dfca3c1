"""Train, evaluate and publish NeoBERT-class encoders. ``neobert.load`` reads any of them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neobert.training.start import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """Import torch only when a model is asked for: the command line answers without it."""
    if name == "load":
        from neobert.training.start import load

        return load
    raise AttributeError(f"module 'neobert' has no attribute {name!r}")
