"""What a finished fine-tuning run shows."""

from collections.abc import Mapping
from pathlib import Path

from neobert.config.glue import GlueConfig
from neobert.console import get_logger
from neobert.training.metrics_file import read_metrics, series
from neobert.training.summary import show_result

log = get_logger(__name__)


def warn_of_labels(config: GlueConfig, num_labels: int) -> None:
    """``glue.num_labels`` is the task's; what the settings say is corrected, aloud."""
    if config.num_labels == num_labels:
        return
    tell = log.info if config.num_labels == GlueConfig().num_labels else log.warning
    tell("glue.num_labels: %s has %d, not %d", config.task_name, num_labels, config.num_labels)


def scores_by_step(metrics_file: Path, name: str) -> dict[int, float]:
    """The score of every evaluation so far."""
    return dict(zip(*series(read_metrics(metrics_file), name), strict=True))


def show_scores(summary: Mapping[str, object], run: Path) -> None:
    """Print the end of a run to the terminal."""
    task = f"{summary['task_name']} with {summary['model']}"
    show_result(run, summary, task, summary["score_step"])
