"""Settings of the process that make training on a CPU faster: memory allocator and threads.

glibc gives every large tensor back to the system and allocates it again in the next step, zeroed
page by page; keeping the memory makes a training step a fifth to a quarter faster. Has to happen
before the first large tensor.
"""

import ctypes
import os
import sys

import torch

from neobert.config.trainer import TrainerConfig
from neobert.console import get_logger
from neobert.cores import available_cores
from neobert.training.strategy import runs_on_cuda

log = get_logger(__name__)

# malloc.h: names of glibc's mallopt parameters, and what they are set to (bytes).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}


def tune_cpu_if_enabled(config: TrainerConfig) -> None:
    """``trainer.tune_cpu``, in runs that use no GPU."""
    if config.tune_cpu and not runs_on_cuda(config):
        tune_cpu(1 if config.devices == "auto" else int(config.devices))


def tune_cpu(processes: int = 1) -> str:
    """Keep freed memory, and use no more threads than there are cores; say so in one line.

    ``processes`` of this machine share the cores: this one and those that it is going to start.
    """
    # A number that the user set stands (OMP_NUM_THREADS).
    if "OMP_NUM_THREADS" not in os.environ:
        threads = threads_per_process(processes)
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        if processes > 1:
            # They inherit it, and Lightning leaves it: it knows no quota of a container.
            os.environ["OMP_NUM_THREADS"] = str(threads)
    freed = "is kept" if keep_freed_memory() else "goes back to the system"
    line = (
        f"CPU: {torch.get_num_threads()} threads, freed memory {freed} "
        f"(trainer.tune_cpu=false to leave both)"
    )
    log.info(line)
    return line


def keep_freed_memory() -> bool:
    """Tell glibc to keep large blocks; whether there is a glibc to tell."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl has a mallopt that does nothing
        return False
    return all(library.mallopt(name, value) == 1 for name, value in KEPT.items())


def threads_per_process(processes: int = 1) -> int:
    """Cores of this machine that each of its ranks may use: torchrun's, or so many processes."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    return max(1, available_cores() // ranks)
