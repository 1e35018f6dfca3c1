"""What a program says when it ends early, and with which exit code: the one place for both."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from neobert.console import get_logger
from neobert.errors import ConfigError, ExitCode, RunError
from neobert.files import first_line, is_disk_full, root_cause

log = get_logger(__name__)

RESUME = "resume with trainer.resume_from_checkpoint=latest"

WORKER = "DataLoader worker"
"""Begins what PyTorch says of a loader process that died."""


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run the ``main`` of a program and exit with its code; what it raises is reported."""
    try:
        code = main() or 0
        sys.stdout.flush()
    except BaseException as error:
        code = report_failure(error)
    sys.exit(code)


def report_failure(error: BaseException) -> int:
    """Log what ended the program, a line per problem; return its exit code.

    Raises ``error`` again if it is neither the user's, nor the machine's, nor a signal: a traceback
    is what one needs then.
    """
    log.debug("ended by:", exc_info=error)
    if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
        raise error
    if isinstance(error, KeyboardInterrupt | SystemExit):  # Lightning turns the first into exit(1)
        log.warning("interrupted outside training, or twice: no checkpoint was written")
        return ExitCode.ABORTED
    if isinstance(error, BrokenPipeError):
        # Python flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _say(["whoever read the output has closed it (broken pipe)"], ExitCode.FAILED)
    if isinstance(error, ConfigError):
        return _say(error.problems, ExitCode.WRONG_SETTINGS)
    if isinstance(error, RunError):
        return _say(error.problems, ExitCode.FAILED)
    problem = failure(error)
    if problem is None:
        raise error
    return _say([problem], ExitCode.FAILED)


def failure(error: BaseException) -> str | None:
    """One line for what went wrong with the machine while a run worked; ``None`` if it is a bug."""
    if isinstance(error, FloatingPointError):
        return str(error)
    if is_disk_full(error):
        return f"the disk or a quota is full ({root_cause(error)}): make room, then {RESUME}"
    if WORKER in str(error):
        return (
            f"a process that loads data was lost ({first_line(error)}): out of memory, if nobody "
            f"killed it; fewer of them (dataset.num_workers=0) need less; {RESUME}"
        )
    if type(error).__name__ == "BrokenProcessPool":
        return (
            "a process that tokenises was lost: out of memory, if nobody killed it; fewer of them "
            "(dataset.num_proc=1) need less"
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"out of memory ({first_line(error)})" if isinstance(error, MemoryError) else None


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Within the block SIGTERM ends the process in order, as ``ExitCode.INTERRUPTED``.

    While a run trains, :class:`~neobert.training.callbacks.interrupt.Interrupt` takes over. In
    between nothing is to be saved: the same command, requeued, starts or resumes.
    """
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end(number: int, frame: FrameType | None) -> None:
    log.warning(
        "SIGTERM outside training: nothing is to be saved; the same command starts again, with "
        "trainer.resume_from_checkpoint=latest from the last checkpoint"
    )
    raise SystemExit(ExitCode.INTERRUPTED)


def _say(problems: list[str], code: ExitCode) -> int:
    for problem in problems:
        log.error("error: %s", _printable(problem))
    return code


def _printable(text: str) -> str:
    """``text`` with escapes for what a terminal would hide or obey, as names of columns."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
