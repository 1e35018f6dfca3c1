"""The loss plot of a run, drawn from its ``metrics.csv``."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.files import first_line, replacing
from neobert.training.metrics_file import Row, read_metrics, series

log = get_logger(__name__)


def plot_losses(metrics_file: Path, picture: Path, levels: dict[str, float]) -> None:
    """Draw training and evaluation loss over the steps into ``picture`` (PNG), if there are any.

    ``levels`` are horizontal lines to compare with, by their label: the unigram loss. A file that
    cannot be read or written is reported, and does not fail the run.
    """
    try:
        _plot(read_metrics(metrics_file), picture, levels)
    except (ConfigError, OSError) as error:
        log.warning("%s was not drawn: %s", picture, first_line(error))


def _plot(rows: list[Row], picture: Path, levels: dict[str, float]) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no display, no global state of pyplot
    axes = figure.subplots()
    for name, label in (("train/loss", "training"), ("eval/loss", "evaluation")):
        steps, values = series(rows, name)
        if steps:
            axes.plot(steps, values, label=label, marker="o" if name == "eval/loss" else None)
    if not axes.has_data():
        return
    for label, level in levels.items():
        axes.axhline(level, label=label, color="gray", linestyle="--")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per target)")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
