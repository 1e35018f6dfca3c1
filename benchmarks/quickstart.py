"""``python -m benchmarks.quickstart``: the figures of docs/benchmarks/quickstart.md.

Seconds from a command to its answer (a typo, ``--cfg job``, ``--help``) and to the first optimizer
step; tokens per second of the quickstart packed and unpacked, in fp32 and in bf16; and where the
time of a step goes. Variants take turns, so that a busy machine is as busy for each.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from lightning.pytorch import seed_everything
from lightning.pytorch.profilers import SimpleProfiler

from neobert.config.compose import compose_config
from neobert.console import get_logger, show_messages
from neobert.optim.schedule import resolve_schedule
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.tasks.pretraining.run import build_module
from neobert.training.cpu import tune_cpu_if_asked
from neobert.training.run_folder import open_run_folder
from neobert.training.trainer import ModelCard, Plan, build_trainer

log = get_logger("neobert.benchmarks")

COMMANDS = {
    "a typo": ("trainer.max_stepz=3",),
    "`--cfg job`": ("--cfg", "job"),
    "`--help`": ("--help",),
}
QUIET = (
    "experiment=quickstart",
    "trainer.eval_strategy=no",
    "trainer.eval_on_start=false",
    "trainer.save_strategy=no",
    "trainer.disable_tqdm=true",
)
UNPACKED = ("datacollator.pack_sequences=false", "trainer.per_device_train_batch_size=72")
"""72 documents have about as many tokens of text as 32 full rows of 128."""

VARIANTS: dict[str, tuple[tuple[str, ...], int]] = {
    "packed, fp32": (("trainer.mixed_precision=no",), 12),
    "unpacked, fp32": (("trainer.mixed_precision=no", *UNPACKED), 12),
    "packed, bf16": (("trainer.emulate_bf16=true",), 4),
}
"""Settings of each and its steps, the first of which is not counted."""

PHASES = {
    "waiting for data": ".train_dataloader_next",
    "forward": ".training_step",
    "backward": ".backward",
}
WHOLE = "run_training_batch"


def main() -> None:
    """Measure, print, write ``quickstart.json``."""
    show_messages()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quickstart")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="neobert-bench-") as scratch:
        found = {
            "seconds_to_answer": answers(arguments.rounds),
            "seconds_to_first_step": first_step(Path(scratch), arguments.rounds),
            "tokens_per_sec": speeds(Path(scratch), arguments.rounds),
            "share_of_a_step": phases(Path(scratch)),
        }
    text = json.dumps(found, indent=2)
    log.info("%s", text)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "quickstart.json").write_text(text + "\n")


def answers(rounds: int) -> dict[str, float]:
    """Median seconds of the commands that run nothing."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, words in COMMANDS.items():
            started = time.perf_counter()
            _train(*words, check=False)
            seconds[name].append(time.perf_counter() - started)
    return {name: round(median(found), 2) for name, found in seconds.items()}


def first_step(scratch: Path, rounds: int) -> float:
    """Median seconds of the quickstart with one step, from the command to its end."""
    seconds = []
    for number in range(rounds + 1):  # the first one fills the caches
        started = time.perf_counter()
        output = f"trainer.output_dir={scratch / f'first-{number}'}"
        _train(*QUIET, "trainer.max_steps=1", output)
        seconds.append(time.perf_counter() - started)
    return round(median(seconds[1:]), 2)


def speeds(scratch: Path, rounds: int) -> dict[str, float]:
    """Median tokens of text per second of each variant."""
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds):
        for place, (name, (settings, steps)) in enumerate(VARIANTS.items()):
            output = scratch / f"speed-{number}-{place}"
            _train(
                *QUIET,
                *settings,
                f"trainer.max_steps={steps}",
                "trainer.logging_steps=1",
                f"trainer.output_dir={output}",
            )
            with (output / "metrics.csv").open(newline="") as file:
                rates = [float(row["train/tokens_per_sec"]) for row in csv.DictReader(file)]
            found[name] += rates[1:]
    return {name: round(median(rates)) for name, rates in found.items()}


def phases(scratch: Path, steps: int = 12) -> dict[str, float]:
    """Shares of a step's time, by Lightning's profiler; the optimizer's is what remains of it."""
    words = [*QUIET, f"trainer.max_steps={steps}", f"trainer.output_dir={scratch / 'phases'}"]
    config = compose_config(words)
    tune_cpu_if_asked(config.trainer)
    seed_everything(config.seed, verbose=False)
    data = PretrainingDataModule(config)
    data.setup("fit")
    plan = Plan(data.total_steps, data.steps_per_epoch)
    module = build_module(config, data, resolve_schedule(config.scheduler, plan.total_steps))
    card = ModelCard(data.tokenizer.tokenizer, data.tokenizer.info(), {})
    trainer = build_trainer(config, open_run_folder(config, False), plan, card).trainer
    profiler = SimpleProfiler()
    trainer.profiler = profiler  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    seconds = {
        name: sum(
            sum(durations[1:])
            for action, durations in profiler.recorded_durations.items()
            if action.endswith(ending)
        )
        for name, ending in {**PHASES, "whole": WHOLE}.items()
    }
    whole = seconds.pop("whole") + seconds["waiting for data"]
    seconds["optimizer and the rest"] = whole - sum(seconds.values())
    return {name: round(share / whole, 3) for name, share in seconds.items()}


def _train(*words: str, check: bool = True) -> None:
    command = [sys.executable, "-m", "neobert.train", *words]
    subprocess.run(command, check=check, capture_output=True)


if __name__ == "__main__":
    main()
