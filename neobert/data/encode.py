"""Processes that end with the one that wanted them."""

import multiprocessing
import os
import signal
import sys
import threading
from types import TracebackType


def end_with_parent(worker: int | None = None) -> None:
    """End this process once the one that started it is gone; a killed one tells nobody.

    ``worker`` is the number that PyTorch gives to a loader process, whose own watch looks at the
    parent only, which a fork server is. Such a process ignores Ctrl-C and SIGTERM, which reach the
    whole process group: the run still needs its batches to finish the step and save.
    """
    if worker is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        sys.excepthook = _unless_parent_left
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _unless_parent_left(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Say nothing of a connection that the run has closed: it ends, and has said why itself."""
    if not issubclass(kind, EOFError | ConnectionError | multiprocessing.AuthenticationError):
        sys.__excepthook__(kind, error, trace)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # a killed one leaves its helpers waiting for ever
        os._exit(1)
