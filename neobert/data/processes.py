"""Work for several processes, in order and with bounded memory."""

import atexit
import multiprocessing.util
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from types import ModuleType, TracebackType
from typing import TypeVar

from neobert.cores import available_cores

Task = TypeVar("Task")
Result = TypeVar("Result")

WORTH_PROCESSES = 16
"""Tasks from which on processes are started: each takes half a second to start."""

WAITING = 4
"""Tasks that may wait for each process: bounds the memory."""


def num_processes(requested: int) -> int:
    """``dataset.num_proc``; 0 or less: as many as there are cores, and never more."""
    cores = available_cores()
    return cores if requested <= 0 else min(requested, cores)


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


def in_processes(
    function: Callable[[Task], Result], tasks: Iterable[Task], num_proc: int
) -> Iterator[Result]:
    """``function`` of each task, in the order of the tasks.

    In ``num_proc`` processes, or in this one where there are fewer than ``WORTH_PROCESSES`` tasks.
    """
    tasks = iter(tasks)
    first = list(islice(tasks, WORTH_PROCESSES)) if num_proc > 1 else []
    if len(first) < WORTH_PROCESSES:
        yield from map(function, chain(first, tasks))
        return
    # Spawned, not forked: a fork of a process with threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_proc, context, end_with_parent) as pool:
        running: deque[Future[Result]] = deque()
        for task in chain(first, tasks):
            with without_main():  # a task may start a process
                running.append(pool.submit(function, task))
            if len(running) > WAITING * num_proc:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


@contextmanager
def without_main() -> Iterator[None]:
    """Processes that are started within do not run the program's main module once more.

    Else each imports all that the program has imported, and a script without a ``__main__`` guard
    starts over.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@atexit.register  # after that of multiprocessing.util, so it is called before
def _kill_loader_processes() -> None:
    """At the end of the program multiprocessing sends SIGTERM, which they ignore, and waits."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


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
