"""``python -m benchmarks.quickstart``: the figures of docs/benchmarks/quickstart.md.

Seconds from a command to its answer (a typo, ``--cfg job``, ``--help``) and to the first optimizer
step; tokens per second of the quickstart packed and unpacked, in fp32 and in bf16; and where the
time of a step goes. Variants take turns, so that a busy machine is as busy for each.
"""

import tempfile
import time
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median

from lightning.pytorch import seed_everything
from lightning.pytorch.profilers import SimpleProfiler

from benchmarks import harness
from neobert.config.compose import compose_config
from neobert.console import show_messages
from neobert.tasks.pretraining.run import PretrainingRun
from neobert.training.cpu import tune_cpu_if_enabled
from neobert.training.run import build_module
from neobert.training.run_folder import open_run_folder
from neobert.training.strategy import resolve_strategy
from neobert.training.trainer import ModelCard, Plan, build_trainer

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
    """Measure, log and write ``quickstart.json``."""
    output = Path("docs/benchmarks/quickstart.json")
    options = harness.command("quickstart", __doc__, rounds=3, output=output).parse_args()
    show_messages()
    with tempfile.TemporaryDirectory(prefix="neobert-bench-") as scratch:
        figures = {
            "seconds_to_answer": answers(options.rounds),
            "seconds_to_first_step": first_step(Path(scratch), options.rounds),
            "tokens_per_sec": speeds(Path(scratch), options.rounds),
            "share_of_a_step": phases(Path(scratch)),
        }
    harness.save(options.output, figures)


def answers(rounds: int) -> dict[str, float]:
    """Median seconds of the commands that run nothing."""
    runs = {name: partial(seconds_to_end, *words, check=False) for name, words in COMMANDS.items()}
    return {name: round(median(times), 2) for name, times in harness.in_turns(runs, rounds).items()}


def first_step(scratch: Path, rounds: int) -> float:
    """Median seconds of the quickstart with one step, from the command to its end."""
    words = (*QUIET, "trainer.max_steps=1", f"trainer.output_dir={scratch / 'first'}")
    run = {"first step": partial(seconds_to_end, *words)}
    (seconds,) = harness.in_turns(run, rounds, warm_up=1).values()  # the first fills the caches
    return round(median(seconds), 2)


def seconds_to_end(*words: str, check: bool = True) -> float:
    """Seconds of the clock that a command of ours takes."""
    started = time.perf_counter()
    harness.train(*words, check=check)
    return time.perf_counter() - started


def speeds(scratch: Path, rounds: int) -> dict[str, float]:
    """Median tokens of text per second of each variant."""
    runs = {
        name: partial(rates, scratch / str(place), *settings, f"trainer.max_steps={steps}")
        for place, (name, (settings, steps)) in enumerate(VARIANTS.items())
    }
    measured = harness.in_turns(runs, rounds)
    return {name: round(median(chain.from_iterable(found))) for name, found in measured.items()}


def rates(output: Path, *settings: str) -> list[float]:
    """Tokens per second of each step of a run but the first."""
    harness.train(*QUIET, *settings, "trainer.logging_steps=1", f"trainer.output_dir={output}")
    return [float(row["train/tokens_per_sec"]) for row in harness.logged_steps(output)][1:]


def phases(scratch: Path, steps: int = 12) -> dict[str, float]:
    """Shares of a step's time, by Lightning's profiler; the optimizer's is what remains of it."""
    words = [*QUIET, f"trainer.max_steps={steps}", f"trainer.output_dir={scratch / 'phases'}"]
    config = compose_config(words)
    tune_cpu_if_enabled(config.trainer)
    seed_everything(config.seed, verbose=False)
    task = PretrainingRun(config, resume=None)
    data = task.data
    data.setup("fit")
    plan = Plan(data.total_steps, data.steps_per_epoch)
    strategy = resolve_strategy(config)
    module = build_module(task, plan.total_steps, strategy)
    card = ModelCard(data.tokenizer.tokenizer, data.tokenizer.info(), {})
    trainer = build_trainer(config, open_run_folder(config, False), plan, card, strategy).trainer
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


if __name__ == "__main__":
    main()
