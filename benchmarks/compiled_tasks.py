"""``python -m benchmarks.compiled_tasks RUN``: does ``trainer.torch_compile`` pay for short texts?

From the encoder of RUN, a run of pretraining, ``task=glue`` learns sections of the World Factbook
and ``task=contrastive`` its pairs, in the product's own loop and each in a process of its own. The
encoder takes turns: some steps compiled, some eager. With one thread (``OMP_NUM_THREADS=1``),
useful tokens per second of processor time are the rate of an idle machine. Compiling starts from an
empty cache; its seconds are of the processor too, those of the C++ compiler among them.
"""

import argparse
import os
import resource
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks import harness
from neobert.config.compose import compose_config
from neobert.console import show_messages
from neobert.model.encoder import BlockRunner, Encoder
from neobert.tasks import run
from neobert.tools.report_files import markdown_table
from neobert.training.cpu import tune_cpu
from neobert.training.extras import Extras

TASKS: dict[str, tuple[str, ...]] = {
    "glue": (
        "task=glue",
        "glue.task_name=factbook_sections",
        "glue.pretrained_model_path={start}",
        "glue.max_seq_length={length}",
    ),
    "contrastive": (
        "experiment=contrastive_factbook",
        "contrastive.pretrained_checkpoint_dir={start}",
        "dataset.path={folder}/pairs",
        "dataset.max_seq_length={length}",
    ),
}
COMMON = (
    "dataset.cache_dir={folder}/cache",
    "trainer.output_dir={folder}/run",
    "trainer.per_device_train_batch_size={batch}",
    "trainer.max_steps={total_steps}",
    "trainer.torch_compile=true",
    "trainer.eval_strategy=no",
    "trainer.eval_on_start=false",
    "trainer.save_strategy=no",
    "trainer.disable_tqdm=true",
    "optimizer.lr=1e-4",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """Some steps of one kind."""

    tokens: float
    seconds: float


@dataclass
class Turns(Callback):
    """Switches the compiled graph off and on, every ``steps`` steps; compiled ones come first."""

    steps: int
    compiled: list[Turn] = field(default_factory=list)
    eager: list[Turn] = field(default_factory=list)
    _runner: BlockRunner | None = None
    _since: float = 0.0
    _tokens: float = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx % self.steps:
            return
        (encoder,) = (part for part in pl_module.modules() if isinstance(part, Encoder))
        self._runner = self._runner or encoder.compiled
        encoder.compiled = None if (batch_idx // self.steps) % 2 else self._runner
        self._since, self._tokens = processor_seconds(), 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: object,
        batch_idx: int,
    ) -> None:
        self._tokens += float(outputs["sums"]["tokens"])
        if (batch_idx + 1) % self.steps == 0:
            kind = self.eager if (batch_idx // self.steps) % 2 else self.compiled
            kind.append(Turn(self._tokens, processor_seconds() - self._since))


@dataclass(frozen=True, slots=True)
class CompileGain:
    """Medians over the rounds."""

    eager: float
    """Useful tokens per second of processor time."""

    compiled: float
    ratio: float
    compiling: float
    """Seconds of processor time that the first turn took beyond the steady rate."""

    break_even: float | None
    """Tokens from which on the compiled run is the faster one; ``None`` if it never is."""

    @classmethod
    def of(cls, turns: Turns) -> "CompileGain":
        """From all rounds but the first, which has the compiling."""
        eager, compiled = (
            [turn.tokens / turn.seconds for turn in kind[1:]]
            for kind in (turns.eager, turns.compiled)
        )
        ratio, first = harness.median_ratio(compiled, eager), turns.compiled[0]
        compiling = first.seconds - first.tokens / median(compiled)
        saved = (1 - 1 / ratio) / median(eager)  # seconds per token
        even = compiling / saved if saved > 0 else None
        return cls(median(eager), median(compiled), ratio, compiling, even)


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def page_of(gains: Mapping[str, CompileGain]) -> str:
    """A table with a row per task."""
    rows = [
        (
            name,
            f"{gain.eager:,.0f}",
            f"{gain.compiled:,.0f}",
            f"{gain.ratio:.2f}",
            f"{gain.compiling:.0f}",
            "never" if gain.break_even is None else f"{gain.break_even:,.0f}",
        )
        for name, gain in gains.items()
    ]
    head = ("task", "eager, tokens/s", "compiled", "ratio", "compiling, s", "tokens to break even")
    return "\n".join([*markdown_table(head, rows, 1), ""])


def measure(task: str, options: argparse.Namespace) -> Turns:
    """Train, in this process, in turns."""
    tune_cpu()
    turns = Turns(options.steps)
    with tempfile.TemporaryDirectory() as folder:
        # In the process itself, so that it is counted.
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
        values = {
            "start": options.start,
            "folder": folder,
            "batch": options.batch,
            "length": options.length,
            "total_steps": 2 * options.steps * (1 + options.rounds),
        }
        words = [word.format_map(values) for word in (*TASKS[task], *COMMON)]
        run(compose_config(words), Extras(callbacks=[turns]))
    return turns


def main(argv: list[str] | None = None) -> int:
    """Measure each task and write the figures; with ``--run`` one task, in this process."""
    parser = harness.command("compiled_tasks", __doc__, rounds=5, output=None)
    parser.add_argument("start", type=Path, metavar="RUN", help="a run of pretraining")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--batch", type=int, default=32, help="texts or pairs of a step")
    parser.add_argument("--length", type=int, default=64, help="most tokens of a text")
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--run", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    sizes = {key: getattr(options, key) for key in ("batch", "length", "steps", "rounds")}
    if options.run is not None:
        turns = measure(options.run, options)
        kinds = {"eager": turns.eager, "compiled": turns.compiled}
        return harness.answer({name: list(map(asdict, kind)) for name, kind in kinds.items()})
    show_messages()
    words = [str(options.start), *(f"--{key}={value}" for key, value in sizes.items())]
    rounds = {
        task: harness.in_fresh_process("compiled_tasks", *words, f"--run={task}")
        for task in options.only
    }
    gains = {
        task: CompileGain.of(
            Turns(
                options.steps,
                compiled=[Turn(**turn) for turn in found["compiled"]],
                eager=[Turn(**turn) for turn in found["eager"]],
            )
        )
        for task, found in rounds.items()
    }
    tasks = {task: asdict(gain) for task, gain in gains.items()}
    harness.save(options.output, {"settings": sizes, "tasks": tasks, "rounds": rounds}, quiet=True)
    harness.log.info("%s", page_of(gains))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
