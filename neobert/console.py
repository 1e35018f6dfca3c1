"""What a run logs for its user: one logger, one line per message, nothing from the libraries.

Imports neither torch nor Lightning, so that a wrong setting is answered before they load.
"""

import logging
import os
import sys

ROOT = "neobert"


def get_logger(name: str) -> logging.Logger:
    """Logger of a module of this package: ``get_logger(__name__)``."""
    return logging.getLogger(name)


class _StderrHandler(logging.Handler):
    """Writes to ``sys.stderr`` as it is by then: notebooks and test runners replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # a message never costs a run
            self.handleError(record)


def show_messages(debug: bool = False) -> None:
    """Send this package's messages to stderr, plainly; ``debug`` adds time, level and origin."""
    root = logging.getLogger(ROOT)
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = _StderrHandler()
    pattern = "%(asctime)s %(levelname)s %(name)s: %(message)s" if debug else "%(message)s"
    handler.name = ROOT
    handler.setFormatter(logging.Formatter(pattern))
    root.addHandler(handler)
    # What all processes of a run have to say, the first one says.
    usual = logging.INFO if process_rank() == 0 else logging.WARNING
    root.setLevel(logging.DEBUG if debug else usual)
    root.propagate = False


def process_rank() -> int:
    """Number of this process among those of the run, as set by its launcher; 0 if alone."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0
