"""Hydra's launcher ``hydra/launcher=processes``: each job of a sweep is a fresh process."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class ProcessesConfig:
    """Settings of the launcher."""

    _target_: str = "hydra_plugins.neobert_processes.ProcessLauncher"

    n_jobs: int = 1
    """Jobs that run at a time."""

    devices: list[str] | None = None
    """GPUs that are dealt out where ``n_jobs`` is over 1; ``null``: all that are visible."""


class ProcessLauncher(Launcher):
    """Starts ``python -m neobert.train`` for each job, ``n_jobs`` at a time."""

    def __init__(self, n_jobs: int = 1, devices: list[str] | None = None) -> None:
        self.n_jobs = n_jobs
        self.devices = devices

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what :meth:`launch` needs; called by Hydra."""
        self.hydra_context = hydra_context
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs to their end; a failed one counts as the worst objective."""
        # Hydra imports every plugin at its start, in other programs too.
        from neobert.sweep_jobs import launch

        loader = self.hydra_context.config_loader
        numbered = list(enumerate(job_overrides, start=initial_job_idx))
        return launch(loader, self.config, numbered, self.n_jobs, self.devices)


ConfigStore.instance().store(
    group="hydra/launcher", name="processes", node=ProcessesConfig, provider="neobert"
)
