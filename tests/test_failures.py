"""How a program ends: what it says, and the exit code by which a scheduler can tell."""

import errno
import logging
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from neobert.errors import ConfigError, RunError
from neobert.failures import ending_on_sigterm, report_failure


def full_disk() -> BaseException:
    wrapped = RuntimeError("unexpected pos 576 vs 534")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return wrapped


def exit_after_ctrl_c() -> BaseException:
    """What Lightning makes of Ctrl-C."""
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904
    except SystemExit as stop:
        return stop


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("seed=x: must be a number"), 2, "error: seed=x"),
        (ConfigError("has \ufeffa, b\rc\x1b[2J"), 2, r"error: has \ufeffa, b\rc\x1b[2J"),
        (RunError("STS12 failed"), 1, "error: STS12 failed"),
        (FloatingPointError("the loss is nan"), 1, "error: the loss is nan"),
        (full_disk(), 1, "make room, then resume with trainer.resume_from_checkpoint=latest"),
        (Exception("No space left on device (os error 28)"), 1, "make room"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            1,
            "num_workers=0",
        ),
        (BrokenProcessPool("a child process terminated"), 1, "dataset.num_proc=1"),
        (MemoryError(), 1, "out of memory"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 1, "/a/b: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (exit_after_ctrl_c(), 130, "interrupted"),
    ],
)
def test_each_kind_of_end_has_its_exit_code_and_one_line(
    error: BaseException, code: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="neobert"):
        assert report_failure(error) == code
    assert len(caplog.messages) == 1
    assert line in caplog.text


@pytest.mark.parametrize("error", [TypeError("a bug"), SystemExit(3), OSError("unnamed")])
def test_what_is_nobodys_fault_but_ours_keeps_its_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        report_failure(error)
    assert caught.value is error


def test_sigterm_before_training_cleans_up_and_ends_as_interrupted(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, ending_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is before
