"""The Python interface: compose, train, evaluate. See docs/python.md."""

import os
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from neobert.config.compose import compose_config
from neobert.config.overrides import quote
from neobert.config.ready import folder_problems, start_problems
from neobert.config.root import Config
from neobert.config.section import type_problems
from neobert.config.store import load_config_file
from neobert.console import ROOT, get_logger, show_messages
from neobert.errors import ConfigError
from neobert.failures import ending_on_sigterm
from neobert.files import SUMMARY, read_summary

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger

    from neobert.export.check import Finding
    from neobert.model.heads import MaskedLM
    from neobert.training.extras import Extras

EVALUATIONS = "evaluations"
"""Where a run has the results of :func:`evaluate`, by step."""


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of a run, and what is in it."""

    folder: Path

    @property
    def config(self) -> Config:
        """The settings of the run."""
        return load_config_file(self.folder / "config.yaml")

    @property
    def summary(self) -> dict[str, Any]:
        """``summary.json``; of an MTEB evaluation, the newest below ``mteb/``."""
        written = [*self.folder.glob(SUMMARY), *self.folder.glob(f"mteb/*/{SUMMARY}")]
        newest = max(written, key=lambda file: file.stat().st_mtime_ns, default=None)
        summary = read_summary(newest.parent) if newest else None
        if summary is None:
            raise ConfigError(f"{self.folder} has no {SUMMARY}: the run has not ended yet")
        return summary

    @property
    def metrics(self) -> pa.Table:
        """``metrics.csv``: the column ``step``, then a column for each metric, null if not logged.

        ``run.metrics.to_pandas()`` is a DataFrame.
        """
        from neobert.training.metrics_file import read_metrics

        rows = read_metrics(self.folder / "metrics.csv")
        names = [name for name in (rows[0] if rows else {"step": ""}) if name != "step"]
        columns = {"step": pa.array([int(row["step"]) for row in rows], pa.int64())}
        for name in names:
            values = [float(row[name]) if row[name] else None for row in rows]
            columns[name] = pa.array(values, pa.float64())
        return pa.table(columns)

    def load(self, checkpoint: str | int = "latest") -> "MaskedLM":
        """The model of a checkpoint: ``latest``, ``best`` or a step. See :func:`neobert.load`."""
        from neobert.training.start import load

        return load(self.folder, checkpoint)

    def export(self, output: str | Path, **options: Any) -> "list[Finding]":
        """Write a folder that transformers loads. See :func:`neobert.export.write.export`."""
        from neobert.export.write import export

        return export(self.folder, Path(output), **options)


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Config:
    """The checked settings of ``neobert train --config-dir <config_dir> <overrides>``.

    Hydra's global state stays as it is. Raises ``ConfigError`` with all problems.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"compose({overrides!r}): must be a list of overrides: [{overrides!r}]")
    return compose_config(overrides, config_dir)


def train_config(
    config: Config,
    callbacks: "Sequence[Callback]" = (),
    loggers: "Sequence[Logger]" = (),
) -> Run:
    """Run ``config``, whichever its task is; ``callbacks`` and ``loggers`` are Lightning's.

    Raises ``ConfigError`` for wrong settings, before anything is written, and ``RunError`` if the
    run cannot continue.
    """
    check(config)
    _show_messages(config.debug)
    from neobert.training.extras import Extras

    run_task(config, Extras(callbacks, loggers))
    return Run(Path(config.trainer.output_dir))


def evaluate(
    run: "Run | str | Path",
    overrides: Sequence[str] = (),
    checkpoint: str | int = "latest",
) -> dict[str, float]:
    """Metrics of a checkpoint on the run's evaluation data; ``overrides`` change its settings.

    They are what the run itself logged at that step, and are written to
    ``RUN/evaluations/<step>/``, with predictions where the task has some. With ``task=mteb`` the
    checkpoint is evaluated on MTEB, and the results are in ``RUN/mteb/<step>/``.
    """
    folder = Path(run.folder if isinstance(run, Run) else run)
    file = folder / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{folder} is not the folder of a run: it has no config.yaml")
    config = compose([f"config_path={quote(str(file))}", *overrides])
    if config.task == "mteb":
        return _evaluate_on_mteb(config, folder, str(checkpoint))
    check(replace(config, trainer=replace(config.trainer, resume_from_checkpoint="latest")))
    _show_messages(config.debug)
    from neobert.tasks import task_run
    from neobert.training.evaluate_checkpoint import evaluate_checkpoint
    from neobert.training.extras import check_targets
    from neobert.training.start import select

    check_targets(config)
    selected = select(folder, checkpoint, "", "checkpoint", resumable=True)
    output = folder / EVALUATIONS / selected.name
    config = replace(config, trainer=replace(config.trainer, output_dir=str(output)))
    return evaluate_checkpoint(task_run(config), config, selected)


def _evaluate_on_mteb(config: Config, folder: Path, checkpoint: str) -> dict[str, float]:
    """The score of each task."""
    trainer = replace(config.trainer, output_dir=str(folder))
    # No name of its own: the results are where ``task=mteb trainer.output_dir=RUN`` has them, so
    # that neither runs the finished tasks of the other again.
    has_checkpoints = (folder / "checkpoints").is_dir()
    model = None if has_checkpoints else str(folder)
    config = replace(config, trainer=trainer, mteb_model=model, pretrained_checkpoint=checkpoint)
    summary = train_config(config).summary
    return {name: task["score"] for name, task in summary["tasks"].items()}


def check(config: Config) -> None:
    """Raise ``ConfigError`` with everything that is wrong with settings made in Python."""
    problems = type_problems(config)
    problems = problems or [*config.problems(), *start_problems(config)]
    problems = problems or folder_problems(config.trainer.output_dir)
    if problems:
        raise ConfigError(*problems)


def run_task(config: Config, extras: "Extras | None" = None) -> None:
    """Run a checked configuration in this process."""
    if config.trainer.tune_cpu:
        # Read when torch loads its threads: those that wait spin for microseconds instead of
        # milliseconds. Else a second busy program makes two threads ten times slower than one.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from neobert.tasks import run
    from neobert.training.accelerate_file import with_accelerate_file
    from neobert.training.cpu import tune_cpu_if_enabled
    from neobert.training.extras import check_targets
    from neobert.training.kernel_check import check_kernels
    from neobert.training.strategy import resolve_strategy

    config = with_accelerate_file(config)
    check_kernels(config)
    check_targets(config)
    if config.task != "mteb":
        resolve_strategy(config)  # refused before any work is done
    tune_cpu_if_enabled(config.trainer)
    in_main_thread = threading.current_thread() is threading.main_thread()
    with ending_on_sigterm() if in_main_thread else nullcontext():
        run(config, extras)


def _show_messages(debug: bool) -> None:
    """Show log lines, unless the program has set up the logger ``neobert`` itself."""
    if all(handler.name == ROOT for handler in get_logger(ROOT).handlers):
        show_messages(debug)
