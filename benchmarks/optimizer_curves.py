"""Optimizers compared: ``python -m benchmarks.optimizer_curves FOLDER… --output FILE.json``.

Reads all pretraining runs below the folders (of ``python -m neobert.train -m …``). Writes their
curves as JSON and a plot beside it: evaluation loss over tokens and over seconds of processor time,
the largest attention logit over steps. Of each optimizer the plot shows the rate whose last loss is
the lowest at the first seed. Prints two tables: all rates at the first seed, the best rate at all.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neobert.config.optimizer import MuonConfig, OptimizerConfig
from neobert.config.store import load_config_file
from neobert.console import get_logger, show_messages
from neobert.files import write_json
from neobert.training.metrics_file import Row, read_metrics, series

log = get_logger("neobert.benchmarks")

NAMES = {"adamw": "AdamW", "adam": "Adam"}
Points = tuple[list[float], list[float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """What a run's ``metrics.csv`` says."""

    optimizer: str
    rate: float
    seed: int
    steps: list[int]
    """Of the evaluations, as the next three."""

    tokens: list[float]
    seconds: list[float]
    """Of processor time spent on training; evaluation not counted."""

    loss: list[float]
    logit_steps: list[int]
    logits: list[float]
    """Largest attention logit since the step before in ``logit_steps``."""

    clipped_heads: int
    """Over the whole run."""

    @property
    def last_loss(self) -> float:
        """The final evaluation; infinite if the run ended without one."""
        return self.loss[-1] if self.loss else math.inf


def main(argv: list[str] | None = None) -> None:
    """The program."""
    show_messages()
    parser = argparse.ArgumentParser(prog="benchmarks.optimizer_curves", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="JSON; the plot is beside it")
    options = parser.parse_args(argv)
    curves = read_curves(options.folders)
    if not curves:
        parser.error(f"no run with config.yaml and metrics.csv below {options.folders}")
    write_json([asdict(curve) for curve in curves], options.output)
    plot(best_rates(curves), options.output.with_suffix(".svg"))
    log.info("%s\n%s", rates_table(curves), seeds_table(best_rates(curves)))


def read_curves(folders: Iterable[Path]) -> list[Curve]:
    """Every run below ``folders``, by optimizer, rate and seed."""
    found = [
        read_curve(file.parent)
        for folder in folders
        for file in sorted(folder.rglob("metrics.csv"))
        if (file.parent / "config.yaml").is_file()
    ]
    return sorted(found, key=lambda curve: (curve.optimizer, curve.rate, curve.seed))


def read_curve(run: Path) -> Curve:
    """One run's folder."""
    config = load_config_file(run / "config.yaml")
    rows = read_metrics(run / "metrics.csv")
    tokens, seconds = clocks(rows)
    steps, loss = series(rows, "eval/loss")
    logit_steps, logits = series(rows, "train/max_attention_logit")
    return Curve(
        name_of(config.optimizer),
        config.optimizer.lr,
        config.seed,
        steps,
        [tokens[step] for step in steps],
        [round(seconds[step], 2) for step in steps],
        [round(value, 4) for value in loss],
        logit_steps,
        [round(value, 3) for value in logits],
        int(sum(series(rows, "train/clipped_heads")[1])),
    )


def clocks(rows: list[Row]) -> tuple[dict[int, float], dict[int, float]]:
    """Tokens and seconds of processor time of training up to each step that has a row."""
    tokens, seconds = {0: 0.0}, {0: 0.0}
    trained = worked = 0.0
    for row in rows:
        if row.get("train/tokens"):
            window = (float(row["train/tokens"]) - trained) / float(row["train/tokens_per_sec"])
            worked += window * float(row["train/cores_busy"])
            trained = float(row["train/tokens"])
        tokens[int(row["step"])], seconds[int(row["step"])] = trained, worked
    return tokens, seconds


def name_of(config: OptimizerConfig) -> str:
    """What an optimizer is called in tables."""
    if config.name in NAMES:
        return NAMES[config.name]
    settings = config.muon_config or MuonConfig()
    if not settings.enable_clipping:
        return "Muon"
    return f"MuonClip, threshold {settings.clipping_threshold:g}"


def best_rates(curves: list[Curve]) -> list[Curve]:
    """The runs of each optimizer at the rate that is best at the first seed."""
    first = min(curve.seed for curve in curves)
    found = []
    for name in dict.fromkeys(curve.optimizer for curve in curves):
        own = [curve for curve in curves if curve.optimizer == name]
        candidates = [curve for curve in own if curve.seed == first] or own
        rate = min(candidates, key=lambda curve: curve.last_loss).rate
        found += [curve for curve in own if curve.rate == rate]
    return found


def rates_table(curves: list[Curve]) -> str:
    """Markdown: last loss of each optimizer and rate at the first seed."""
    first = min(curve.seed for curve in curves)
    rates = sorted({curve.rate for curve in curves})
    lines = [
        "| | " + " | ".join(f"{rate:g}" for rate in rates) + " |",
        "|---|" + "--:|" * len(rates),
    ]
    for name in dict.fromkeys(curve.optimizer for curve in curves):
        cells = {
            curve.rate: f"{curve.last_loss:.3f}"
            for curve in curves
            if curve.optimizer == name and curve.seed == first
        }
        lines.append(f"| {name} | " + " | ".join(cells.get(rate, "") for rate in rates) + " |")
    return "\n".join(lines) + "\n"


def seeds_table(curves: list[Curve]) -> str:
    """Markdown: last loss of each seed, their mean, seconds, the largest logit, heads clipped."""
    seeds = sorted({curve.seed for curve in curves})
    head = " | ".join(f"seed {seed}" for seed in seeds)
    lines = [
        f"| | {head} | mean | seconds | largest logit | heads clipped |",
        "|---|" + "--:|" * (len(seeds) + 4),
    ]
    for name in dict.fromkeys(curve.optimizer for curve in curves):
        own = {curve.seed: curve for curve in curves if curve.optimizer == name}
        losses = [f"{own[seed].last_loss:.3f}" if seed in own else "" for seed in seeds]
        mean = statistics.mean(curve.last_loss for curve in own.values())
        seconds = statistics.median(curve.seconds[-1] for curve in own.values() if curve.seconds)
        logits = [max(curve.logits) for curve in own.values() if curve.logits]
        cells = [
            f"{name}, lr {next(iter(own.values())).rate:g}",
            *losses,
            f"{mean:.3f}",
            f"{seconds:.0f}",
            f"{max(logits):.1f}" if logits else "–",
            str(sum(curve.clipped_heads for curve in own.values())) if logits else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(curves: list[Curve], picture: Path) -> None:
    """Draw loss over tokens and seconds, and logits over steps if any run has measured them."""
    panels: list[tuple[str, str, Callable[[Curve], Points]]] = [
        (
            "million tokens",
            "evaluation loss (nats per target)",
            lambda one: ([count / 1e6 for count in one.tokens], one.loss),
        ),
        ("seconds of processor time", "", lambda one: (one.seconds, one.loss)),
    ]
    if any(curve.logits for curve in curves):
        panels.append(
            ("step", "largest attention logit", lambda one: ([*one.logit_steps], one.logits))
        )
    figure = Figure(figsize=(4.2 * len(panels), 3.8), layout="constrained")
    FigureCanvasAgg(figure)  # no display, no global state of pyplot
    for axes, (x, y, points) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        _draw(axes, curves, points)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.3)
        if y == "largest attention logit":
            axes.set_yscale("log")
    figure.axes[0].legend(fontsize="small")
    figure.savefig(picture, metadata={"Date": None})


def _draw(axes: Axes, curves: list[Curve], points: Callable[[Curve], Points]) -> None:
    names = list(dict.fromkeys(curve.optimizer for curve in curves))
    seen = set[str]()
    for curve in curves:
        label = f"{curve.optimizer}, lr {curve.rate:g}"
        x, y = points(curve)
        if x:
            shown = None if label in seen else label
            color = f"C{names.index(curve.optimizer)}"
            axes.plot(x, y, color=color, label=shown, alpha=0.8, linewidth=1.2)
            seen.add(label)


if __name__ == "__main__":
    main()
