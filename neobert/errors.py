"""How a run ends when it cannot continue, and the exit code that a scheduler sees."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``python -m neobert.train``."""

    DONE = 0

    FAILED = 1
    """The settings are right, but the run could not finish (:class:`RunError`)."""

    WRONG_SETTINGS = 2
    """Settings or input that cannot be used (:class:`ConfigError`): do not requeue."""

    INTERRUPTED = 75
    """Stopped by a signal after a save; EX_TEMPFAIL of sysexits.h: requeue, and the run resumes."""

    ABORTED = 130
    """Ctrl-C outside training, or twice: nothing was saved."""


class _ProblemsError(Exception):
    """Ends a program: ``problems`` holds one line for each thing that is wrong."""

    def __init__(self, *problems: str) -> None:
        self.problems = [line for problem in problems for line in _raised(problem, type(self))]
        super().__init__("\n".join(self.problems))


class ConfigError(_ProblemsError, ValueError):
    """Settings or input that cannot be used."""


class RunError(_ProblemsError, RuntimeError):
    """The settings are valid, the run cannot continue: a full disk, a lost rank, bad numbers."""


def _raised(problem: str, kind: type[Exception]) -> list[str]:
    """The problems that a loader process raised: PyTorch hands its whole traceback to ``kind``."""
    if not problem.startswith(f"Caught {kind.__name__} in DataLoader worker"):
        return [problem]
    return problem.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip().splitlines()
