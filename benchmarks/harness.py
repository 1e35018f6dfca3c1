"""What the benchmarks share: variants in turns, fresh processes, figures with their origin.

Variants take turns, so that a busy machine is as busy for each; ratios are taken within a round.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from matplotlib.figure import Figure

from neobert.config.model import ModelConfig
from neobert.console import get_logger
from neobert.files import write_atomically, write_json
from neobert.tools.report_files import save_figure
from neobert.training.summary import command_line, origin

log = get_logger("neobert.benchmarks")

Measured = TypeVar("Measured")


def in_turns(
    variants: Mapping[str, Callable[[], Measured]], rounds: int, warm_up: int = 0
) -> dict[str, list[Measured]]:
    """Measure each variant once per round; the first ``warm_up`` rounds are not kept."""
    measured: dict[str, list[Measured]] = {name: [] for name in variants}
    for number in range(warm_up + rounds):
        for name, measure in variants.items():
            measured[name].append(measure())
        latest = ", ".join(f"{name} {values[-1]}" for name, values in measured.items())
        log.info("round %d of %d: %s", number + 1, warm_up + rounds, latest)
    return {name: values[warm_up:] for name, values in measured.items()}


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return median(one / other for one, other in zip(numerators, denominators, strict=True))


def seconds_of(work: Callable[[], object], on_cuda: bool = False) -> float:
    """Seconds that ``work`` takes: of the clock on a GPU, else of the processor, all threads."""
    start = now(on_cuda)
    work()
    return now(on_cuda) - start


def now(on_cuda: bool) -> float:
    """The clock when the GPU has caught up, or this process's processor time; in seconds."""
    if not on_cuda:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def in_fresh_process(module: str, *words: str) -> dict[str, Any]:
    """Run ``python -m benchmarks.<module>`` and return the JSON of its last line of output."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def answer(figures: Mapping[str, object]) -> int:
    """What a process of :func:`in_fresh_process` ends with; its exit code."""
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def train(*words: str, check: bool = True) -> None:
    """Run ``python -m neobert.train``."""
    command = [sys.executable, "-m", "neobert.train", *words]
    subprocess.run(command, check=check, capture_output=True)


def logged_steps(run: Path, column: str = "train/tokens_per_sec") -> list[dict[str, str]]:
    """The rows of a run's ``metrics.csv`` that have a value in ``column``."""
    with (run / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get(column)]


def shape_of(text: str) -> tuple[int, int]:
    """Width and layers, written as ``192x4``."""
    width, layers = (int(number) for number in text.split("x"))
    return width, layers


def model_config(width: int, layers: int, **settings: Any) -> ModelConfig:  # noqa: ANN401
    """A model with heads of 64 and the usual ratio of widths."""
    return ModelConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width,
        **settings,
    )


def command(
    module: str, doc: str | None, rounds: int | None, output: Path | None
) -> argparse.ArgumentParser:
    """A command line with ``--output`` and, unless ``rounds`` is ``None``, ``--rounds``."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}", description=(doc or "").partition("\n")[0]
    )
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="turns of each variant")
    parser.add_argument("--output", type=Path, default=output, help="the JSON; others beside it")
    return parser


def without_folders(command: Sequence[str]) -> list[str]:
    """``command`` with absolute paths cut to their names: a committed page names no machine."""
    return [re.sub(r"(^|=)/(?:[^/]+/)*", r"\1", word) for word in command]


def save(
    output: Path | None,
    figures: Mapping[str, object],
    page: str | None = None,
    plot: Callable[[], Figure] | None = None,
    *,
    quiet: bool = False,
) -> None:
    """Log the figures unless ``quiet``, and write them to ``output`` (.json, .md, .svg).

    The JSON has versions and command beside them.
    """
    if not quiet:
        log.info("%s", page or json.dumps(figures, indent=2))
    if output is None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    command = without_folders(command_line())
    write_json({**figures, "origin": origin(command)}, output.with_suffix(".json"))
    if page is not None:
        write_atomically(output.with_suffix(".md"), page)
    if plot is not None:
        save_figure(plot(), output.with_suffix(".svg"))
