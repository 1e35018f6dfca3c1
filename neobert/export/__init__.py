"""Publish weights. ``neobert.export(run, output)`` calls :func:`neobert.export.write.export`."""

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neobert.export.check import Finding


class _Callable(ModuleType):
    def __call__(self, source: str | Path, output: str | Path, **options: Any) -> "list[Finding]":
        """Export ``source``, a run or a checkpoint, to the folder ``output``."""
        from neobert.export.write import export

        return export(Path(source), Path(output), **options)


sys.modules[__name__].__class__ = _Callable
