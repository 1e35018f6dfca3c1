"""What a finished fine-tuning run shows, and the names it goes by."""

from collections.abc import Mapping
from pathlib import Path

from neobert.config.glue import GlueConfig
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.tasks.glue.starting_weights import ClassifierStart
from neobert.training.metrics_file import read_metrics, series
from neobert.training.summary import show_result

log = get_logger(__name__)


def label_of(config: Config, start: ClassifierStart) -> str:
    """What a report calls the model: the end of ``model.name``, else the folder of its weights."""
    if config.model.name:
        return "/".join(Path(config.model.name).parts[-2:])
    shape = f"{start.model.hidden_size}x{start.model.num_hidden_layers}"
    source = start.record.get("folder")
    if source is None:
        return f"random-{shape}"
    folder = Path(str(source))
    run = folder.parents[1] if folder.parent.name == "checkpoints" else folder
    step = f"-{folder.name}" if folder.parent.name == "checkpoints" else ""
    return f"{run.name}{step}"


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
