"""How cost grows with the size of a job: ``python -m benchmarks.scale``.

Writes ``docs/benchmarks/scale.md``: streams by the number of ranks, order and plan by the number of
documents, preparation, hold-out, ``metrics.csv``, checkpoints, memory of loss and attention, labels
of GLUE and finished jobs of a sweep. Each measurement is a process of its own; times are of the
processor, except the shares of waiting, which are of the clock, in turns. The page is written after
every process; ``--only`` adds to the figures that it has.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset

from benchmarks import harness
from benchmarks.data import AnonymousMemory, write_lines
from neobert.config.compose import compose_config
from neobert.config.dataset import DatasetConfig
from neobert.console import get_logger, show_messages
from neobert.data.sources import Source, open_source
from neobert.data.task_splits import Splits
from neobert.files import read_summary, write_json
from neobert.ops.cross_entropy import linear_cross_entropy
from neobert.ops.document_attention import document_attention
from neobert.sweep_jobs import RECORD, Job, read_job
from neobert.tasks import run
from neobert.tasks.glue.labels import label_splits
from neobert.tasks.glue.tasks import TASKS
from neobert.training import trainer
from neobert.training.checkpoint import FolderCheckpointIO
from neobert.training.checkpoint_thread import ThreadedCheckpointIO
from neobert.training.manifest import damages
from neobert.training.metrics_file import MetricsFile
from neobert.training.summary import git_commit

log = get_logger("neobert.benchmarks")

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "scale.json"
Figures = dict[str, float]


def main() -> int:
    """Run the measurements that are chosen; write their figures after each."""
    parser = harness.command("scale", __doc__, rounds=2, output=PAGE)
    parser.add_argument("--only", choices=[*OTHERS, *MEASUREMENTS], action="append")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/neobert-bench-data"))
    parser.add_argument("--documents", type=int, nargs="+", default=SIZES)
    parser.add_argument("--here", choices=MEASUREMENTS, help="in this process, no new one")
    options = parser.parse_args()
    show_messages()
    if options.here:
        return harness.answer(MEASUREMENTS[options.here](options))
    parts = [part for name in options.only or TITLES for part in parts_of(name, options)]
    return run_parts(parts, options.output)


@dataclass(frozen=True, slots=True)
class Part:
    """What one process measures."""

    name: str
    """Of the measurement."""

    size: str
    """Key of its figures among those of the measurement; empty where it is all of it."""

    command: list[str]
    """Module and arguments."""

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.name, self.size)))


def parts_of(name: str, options: argparse.Namespace) -> list[Part]:
    """The processes of a measurement."""
    folder = f"--folder={options.folder}"
    if name not in OTHERS:
        rounds = f"--rounds={options.rounds}"
        return [Part(name, "", ["scale", "--here", name, folder, rounds])]
    command, largest = OTHERS[name]
    if not largest:
        return [Part(name, "", [*command, folder])]
    return [
        Part(name, documents(count), [*command, folder, f"--documents={count}"])
        for count in options.documents
        if count <= largest
    ]


def documents(count: int) -> str:
    """The key of the figures of so many documents."""
    return f"{count:,} documents"


def run_parts(parts: Sequence[Part], output: Path | None) -> int:
    """Measure each part and add it to the figures of earlier commands; the exit code."""
    figures: dict[str, Any] = {}
    if output is not None and output.with_suffix(".json").exists():
        figures = json.loads(output.with_suffix(".json").read_text())
        figures.pop("origin", None)
    failed: list[str] = []
    for number, part in enumerate(parts, start=1):
        started = time.perf_counter()
        try:
            found = harness.in_fresh_process(*part.command)
        except (CalledProcessError, IndexError, ValueError):
            log.exception("%s failed; what it measured before is kept", part.title)
            failed.append(part.title)
            continue
        figures[part.name] = (
            {**figures.get(part.name, {}), part.size: found} if part.size else found
        )
        seconds = round(time.perf_counter() - started)
        figures.setdefault(RUNS, {})[part.title] = {"seconds": seconds, "commit": git_commit()}
        log.info("%d of %d: %s: %d s: %s", number, len(parts), part.title, seconds, found)
        harness.save(output, figures, page(figures), quiet=True)
    if failed:
        log.error("failed: %s", "; ".join(failed))
    return int(bool(failed))


SIZES = [10**5, 10**6, 10**7]
RUNS = "runs"
"""Key of how long each part took, and of the commit that it measured."""

OTHERS = {
    "streams": (("stream", "--here", "ranks", "--copies", "2"), 0),
    "order and plan": (("stream", "--here", "scale"), 10**7),
    "warm start": (("data", "--here", "resume"), 10**7),
    "preparation": (("data", "--here", "prepare"), 10**6),
}
"""Measurements of other benchmarks, and the most documents of theirs; 0 if that counts not."""


def measure_hold_out(options: argparse.Namespace) -> Figures:
    """Microseconds per document of reading what trains."""
    lines = options.folder / "hold-out.txt"
    if not lines.exists():
        write_lines(lines, 30_000)
    found: Figures = {}
    for name, settings in (
        ("eval_samples=200", {"eval_samples": 200, "validation_split": None}),
        ("validation_split=0.02", {"validation_split": 0.02, "eval_samples": None}),
    ):
        config = DatasetConfig(name="local", path=str(lines), streaming=False, **settings)
        source = open_source(config, options.folder, seed=0)
        seconds = [harness.seconds_of(partial(_read, source)) for _ in range(5)]
        found[name] = round(min(seconds) / 30_000 * 1e6, 2)
    return found


def _read(source: Source) -> None:
    for _ in source.train.texts():
        pass


def measure_metrics(options: argparse.Namespace) -> Figures:
    """Bytes written for a ``metrics.csv`` of 3,000 lines, per byte of the file."""
    with TemporaryDirectory() as folder:
        logger = MetricsFile(Path(folder) / "metrics.csv")
        before = moved_bytes()["wchar"]
        for step in range(3000):
            logger.log_metrics({f"train/{n}": random.random() for n in range(5)}, step)
            logger.log_metrics({f"train/other{n}": random.random() for n in range(4)}, step)
            logger.save()
        written = moved_bytes()["wchar"] - before
        return {"written / size": round(written / logger.path.stat().st_size, 3)}


def measure_checkpoint(options: argparse.Namespace) -> Figures:
    """Bytes that a save and its verification move, per byte of the checkpoint."""
    weights = {f"model.layer{n}": torch.randn(1000, 1000) for n in range(10)}
    states = {n: {key: torch.randn(1000, 1000) for key in ("m", "v")} for n in range(10)}
    with TemporaryDirectory() as name:
        folder = Path(name) / "checkpoints" / "1"
        before = moved_bytes()
        FolderCheckpointIO(lambda _: None).save_checkpoint(
            {"state_dict": weights, "optimizer_states": [{"state": states}]}, folder
        )
        saved = moved_bytes()
        assert damages(folder, contents=False) == []
        retained = moved_bytes()
        assert damages(folder) == []
        resumed = moved_bytes()
        size = sum(file.stat().st_size for file in folder.iterdir())
    return {
        "save, written": round((saved["wchar"] - before["wchar"]) / size, 3),
        "save, read back": round((saved["rchar"] - before["rchar"]) / size, 3),
        "retention, read": round((retained["rchar"] - saved["rchar"]) / size, 3),
        "resume, read by one process of a node": round(
            (resumed["rchar"] - retained["rchar"]) / size, 3
        ),
    }


class SynchronousCheckpointIO(ThreadedCheckpointIO):
    """Training waits until the checkpoint is on disk."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, object],
        path: str | Path,
        storage_options: Callable[[], None] | None = None,
    ) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        self.wait()


def measure_waiting(options: argparse.Namespace) -> dict[str, object]:
    """Share of the time that training waits for saves every 50 steps of 512 tokens."""
    words = [
        *("dataset=factbook", f"dataset.cache_dir={options.folder}", "dataset.num_workers=0"),
        *("dataset.max_seq_length=128", "datacollator.pack_sequences=true"),
        *("tokenizer.train_vocab_size=8192", "model.hidden_size=256", "model.num_hidden_layers=4"),
        *("model.num_attention_heads=4", "model.intermediate_size=1024"),
        *("trainer.per_device_train_batch_size=4", "trainer.max_steps=125"),
        *("trainer.save_steps=50", "trainer.logging_steps=25", "trainer.eval_strategy=no"),
        *("trainer.disable_tqdm=true", "optimizer=adamw"),
    ]

    def share(kind: type[ThreadedCheckpointIO]) -> float:
        trainer.ThreadedCheckpointIO = kind  # type: ignore[misc]
        with TemporaryDirectory() as folder:
            run(compose_config([*words, f"trainer.output_dir={folder}/run"]))
            summary: Any = read_summary(Path(folder, "run"))
            return round(summary["throughput"]["save_wait"], 4)

    variants = {
        "written by a thread": lambda: share(ThreadedCheckpointIO),
        "written while training waits": lambda: share(SynchronousCheckpointIO),
    }
    rounds = harness.in_turns(variants, options.rounds)
    return {name: round(median(shares), 4) for name, shares in rounds.items()}


def measure_memory(options: argparse.Namespace) -> Figures:
    """MiB of anonymous memory of loss and attention beside their inputs, forward and backward."""
    torch.set_num_threads(1)
    found: Figures = {}
    for words in (30_592, 128_000):
        for targets in (1_024, 4_096):
            hidden = torch.randn(targets, 32, requires_grad=True)
            weight = torch.randn(words, 32, requires_grad=True)
            labels = torch.randint(words, (targets,))
            with AnonymousMemory() as memory:
                linear_cross_entropy(hidden, weight, labels)[0].backward()
            found[f"loss, vocabulary {words:,}, {targets:,} targets"] = round(memory.added)
    for tokens in (2_048, 8_192):
        q, k, v = (torch.randn(tokens, 12, 64, requires_grad=True) for _ in range(3))
        bounds = torch.tensor([0, tokens], dtype=torch.int32)
        with AnonymousMemory() as memory:
            document_attention(q, k, v, bounds, 0.125).sum().backward()
        found[f"attention, {tokens:,} tokens × 12 heads"] = round(memory.added)
    return found


def measure_labels(options: argparse.Namespace) -> Figures:
    """Seconds to check texts and labels of MNLI's size."""
    task, count = TASKS["mnli"], 402_000
    columns: dict[str, list[object]] = {
        text: ["a text of a few words"] * count for text in task.texts
    }
    columns[task.label_column] = [number % 3 for number in range(count)]
    data = Dataset.from_dict(columns)
    part = data.select(range(9_800))
    splits = Splits("mnli", data, {"": part}, {})
    return {
        "402,000 rows, seconds": round(harness.seconds_of(lambda: label_splits(task, splits)), 2)
    }


def measure_sweep(options: argparse.Namespace) -> Figures:
    """Milliseconds to find out whether a job has been run, by the number of finished ones."""
    found: Figures = {}
    for count in (10, 1000):
        with TemporaryDirectory() as name:
            records = [Path(name) / f"{RECORD}{number:016x}.json" for number in range(count)]
            for number, record in enumerate(records):
                write_json(asdict(Job(number, ["optimizer.lr=1e-3"], name, code=0)), record)
            started = time.process_time()
            for record in records[:10]:
                assert read_job(record) is not None
            found[f"{count:,} finished jobs"] = round((time.process_time() - started) * 100, 3)
    return found


def moved_bytes() -> dict[str, int]:
    """Bytes that this process has read (``rchar``) and written (``wchar``) so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], Figures | dict[str, object]]] = {
    "hold-out": measure_hold_out,
    "metrics.csv": measure_metrics,
    "checkpoint": measure_checkpoint,
    "waiting for saves": measure_waiting,
    "memory": measure_memory,
    "labels": measure_labels,
    "sweep": measure_sweep,
}

TITLES = {
    "streams": "Streams: processor seconds of all ranks per million tokens, and the gain of two "
    "loader processes (`files`: 64 files of JSON lines)",
    "order and plan": "Order and row plan of indexed data",
    "warm start": "Warm start: settings to first batch of a resumed run whose tokens are cached",
    "preparation": "Preparation: text to tokens and rows, one process",
    "hold-out": "Hold-out: µs of processor per document that is read to train on",
    "metrics.csv": "`metrics.csv` of 3,000 lines: bytes written per byte of the file",
    "checkpoint": "Checkpoint: bytes moved per byte of the checkpoint",
    "waiting for saves": "Share of the time that training waits for saves: every 50 steps of 512 "
    "tokens, 256 × 4, AdamW, median of the rounds in turns",
    "memory": "Loss and attention on a CPU: MiB beside the inputs, forward and backward, fp32",
    "labels": "GLUE: texts and labels checked at the start",
    "sweep": "Sweep: ms to look up a finished job",
}


def page(figures: Mapping[str, Any]) -> str:
    """The figures as tables."""
    parts = [
        "# How cost grows with the size of a job",
        "`python -m benchmarks.scale` writes this page. Times are of the processor, all threads;\n"
        "the ranks of a stream are simulated, one after the other. What the figures mean for a\n"
        "job is in [distributed.md](../distributed.md#how-large-a-job).",
    ]
    for name, title in TITLES.items():
        rows = "\n".join(f"| {key} | {value} |" for key, value in rows_of(name, figures).items())
        parts.append(f"## {title}\n\n| | |\n|---|--:|\n{rows}")
    runs = figures.get(RUNS, {})
    if runs:
        commits = ", ".join(sorted({run["commit"] for run in runs.values()}))
        seconds = sum(run["seconds"] for run in runs.values())
        parts.append(
            f"{len(runs)} processes, one after the other, took {seconds:,} s; commit {commits}."
        )
    return "\n\n".join(parts) + "\n"


def rows_of(name: str, figures: Mapping[str, Any]) -> dict[str, object]:
    """The rows of a measurement; those that it lacks are not measured."""
    found = figures.get(name, {})
    largest = OTHERS[name][1] if name in OTHERS else 0
    sizes = {documents(count): "not measured" for count in SIZES if count <= largest}
    rows: dict[str, object] = {}
    for size in sorted({**sizes, **found}, key=[*sizes, *found].index):
        rows |= flat({size: found.get(size, "not measured")})
    return rows or {"all": "not measured"}


def flat(values: object, before: str = "") -> dict[str, object]:
    """The figures of a measurement by their names, those of an inner one after its name."""
    assert isinstance(values, dict)
    found: dict[str, object] = {}
    for name, value in values.items():
        inner = isinstance(value, dict)
        found |= flat(value, f"{before}{name}, ") if inner else {f"{before}{name}": value}
    return found


if __name__ == "__main__":
    sys.exit(main())
