"""``summary.json``: what a run came to, and all that is needed to say where it came from."""

import importlib.metadata
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

import neobert

PACKAGES = (
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "transformers",
    "datasets",
    "tokenizers",
    "safetensors",
    "flash-attn",
    "liger-kernel",
    "deepspeed",
    "mteb",
)


def origin(argv: list[str]) -> dict[str, object]:
    """Versions, machine, commit and command of this process."""
    return {
        "command": " ".join(argv),
        "neobert": neobert.__version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "packages": _versions(),
    }


def command_line() -> list[str]:
    """This process's command as a user would type it."""
    program = Path(sys.argv[0])
    parts = program.with_suffix("").parts
    packages = [i for i, part in enumerate(parts) if part in ("neobert", "benchmarks")]
    if program.suffix == ".py" and packages:
        first = packages[-1]
        module = ".".join(part for part in parts[first:] if part != "__main__")
        return ["python", "-m", module, *sys.argv[1:]]
    return [program.name, *sys.argv[1:]]


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def num_parameters(model: nn.Module) -> int:
    """Numbers in all weights of ``model``, also where ZeRO's stage 3 holds them elsewhere."""
    return sum(
        int(getattr(parameter, "ds_numel", parameter.numel())) for parameter in model.parameters()
    )


def git_commit() -> str | None:
    """Commit of the checkout this package runs from, ``-dirty`` if changed; ``None`` in a wheel."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(neobert.__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def show_result(run: Path, summary: Mapping[str, object], task: str, of_step: object) -> None:
    """Print the end of a fine-tuning run to the terminal: the metrics of its final weights."""
    table = Table(title=str(run), show_header=False, title_justify="left")
    table.add_row("task", task)
    after = summary["after"]
    if isinstance(after, dict):
        for name, value in after.items():
            table.add_row(name.removeprefix("eval/"), f"{value:.4f}")
    table.add_row("of step", f"{of_step} of {summary['steps']}")
    speed = f"{summary['tokens_per_sec']:,.0f} tokens/s, {summary['seconds']:.0f} s"
    table.add_row("training", speed)
    Console(stderr=True).print(table)
