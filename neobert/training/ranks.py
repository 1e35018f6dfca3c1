"""The processes of a run on several devices: how they start, and how one that is lost is noticed.

``trainer.devices=2`` starts the second process from the first (Lightning's launcher, under the same
command line); under torchrun and SLURM they already run. Whichever way: a rank that dies or
hangs ends the run within ``trainer.rank_timeout`` with one clear error.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch.distributed as dist
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from neobert.console import get_logger
from neobert.errors import ExitCode, RunError

log = get_logger(__name__)

Result = TypeVar("Result")
Item = TypeVar("Item")

IN_ORDER = (ExitCode.DONE, ExitCode.INTERRUPTED)
"""Exit codes of a rank that ended as it should: done, or interrupted with a checkpoint."""

GRACE = 10.0
"""Seconds that the first rank gets to end by itself once another one is lost."""

SYMPTOMS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out waiting",
    "timed out",
    "NCCL",
    "Gloo connectFullMesh failed",
    "Read error",
)
"""What gloo, NCCL and the store say when another rank does not answer."""


class LostRank(RunError):  # noqa: N818 - says what happened
    """Another process of the run died, or did not answer in time."""

    def __init__(self, cause: BaseException) -> None:
        first_line = str(cause).strip().partition("\n")[0].partition(". This")[0]
        super().__init__(
            "another process of this run died or did not answer within trainer.rank_timeout; its "
            "own error, if it had one, is above. The checkpoints are intact; resume with "
            f"trainer.resume_from_checkpoint=latest ({first_line})"
        )


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, which shares the cores out and says which rank was lost.

    Lightning's own watch kills this process without a word, also after an orderly interrupt.
    """

    def launch(
        self,
        function: Callable[..., Result],
        *args: object,
        trainer: Trainer | None = None,
        **kwargs: object,
    ) -> Result:
        """Start the other ranks, unless they already run, and run ``function``."""
        self.cluster_environment.validate_settings(self.num_processes, self.num_nodes)
        _set_num_threads_if_needed(num_processes=self.num_processes)  # before: children inherit it
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            Watch(self.procs).start()
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            if not is_symptom(error):
                raise
            for process in self.procs:
                process.kill()
            raise LostRank(error) from error


class Watch(threading.Thread):
    """Ends this process some seconds after a child was lost, if it waits for it for ever."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], period: float = 1.0) -> None:
        super().__init__(daemon=True, name="ranks")
        self.processes, self.period = processes, period

    def run(self) -> None:
        while True:
            time.sleep(self.period)
            codes = [process.poll() for process in self.processes]
            lost = [rank for rank, code in enumerate(codes, 1) if code not in (None, *IN_ORDER)]
            if lost:
                break
            if None not in codes:
                return
        log.error("error: %s", lost_rank_message(lost[0], codes[lost[0] - 1] or 0))
        time.sleep(GRACE)
        for process in self.processes:
            process.kill()
        os._exit(1)


def lost_rank_message(rank: int, code: int) -> str:
    """How rank ``rank`` ended, in words."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"process {rank} of this run {how}: the others cannot continue without it"


def is_symptom(error: BaseException) -> bool:
    """Whether ``error`` is how a rank notices that another one is gone."""
    return any(symptom in str(error) for symptom in SYMPTOMS)


class WatchedRanks(ParallelStrategy):
    """A strategy of several processes, which :class:`Launcher` starts and watches."""

    num_nodes: int
    num_processes: int

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


def gather_lists(mine: Sequence[Item]) -> list[Item]:
    """The lists of all ranks as one, on every rank."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return list(mine)
    everywhere: list[list[Item]] = [[]] * dist.get_world_size()
    dist.all_gather_object(everywhere, list(mine))
    return [item for part in everywhere for item in part]
