"""Contrastive training measured: ``python -m benchmarks.contrastive MODEL [PAIRS]``.

MODEL is a folder of ``python -m neobert.export``, PAIRS a file of JSON lines with ``query`` and
``positive``; without it, the pairs of the World Factbook are taken. This package and
sentence-transformers train the same weights on the same pairs with the same batch, loss, optimizer
and precision, in turns, each time in a process of its own; sentence-transformers once more with our
settings of the memory allocator, and then with padding computed, which our exported model leaves
out by itself. At last the peak memory of one large batch is measured with and without GradCache.
Writes a JSON file and a plot.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import harness
from neobert.console import show_messages
from neobert.training.summary import peak_memory_mib

OURS, THEIRS = "ours", "sentence_transformers"
TUNED, PADDED = "sentence_transformers_tuned", "sentence_transformers_padded"
NAMES = {
    PADDED: "the same, padding computed",
    TUNED: "the same, our allocator",
    THEIRS: "sentence-transformers",
    OURS: "neobert",
}
"""What is timed → its name in the plot, from below."""

WARM_UP = 3
"""Steps before the clock starts: first batches, memory that is taken for the first time."""


@dataclass(frozen=True, slots=True)
class Job:
    """One process of the benchmark."""

    kind: str
    model: str
    pairs: str
    batch: int
    steps: int
    max_length: int
    chunk: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of the steps beyond the warm-up."""

    wall: float
    cpu: float
    peak_mib: float


def main(argv: list[str] | None = None) -> int:
    """Measure and write; with ``--job`` one process of it."""
    options = _options().parse_args(argv)
    if options.job is not None:
        job = Job(**json.loads(options.job))
        return harness.answer(asdict(JOBS[job.kind](job)))
    show_messages()
    with tempfile.TemporaryDirectory() as scratch:
        pairs = options.pairs or str(_factbook(Path(scratch) / "factbook.jsonl"))
        job = Job(OURS, options.model, pairs, options.batch, options.steps, options.max_length)
        shown = {"pairs": options.pairs or "factbook", "batch": job.batch}
        figures: dict[str, object] = {
            "settings": {"model": job.model, "max_length": job.max_length, **shown}
        }
        if options.rounds:
            figures["speed"] = _speed(job, options.peers, options.rounds)
        if options.large:
            figures["memory"] = _memory(replace(job, batch=options.large, steps=1), options.chunk)
    harness.save(options.output, figures, plot=lambda: chart(figures))
    return 0


def _factbook(file: Path) -> Path:
    from neobert.tasks.contrastive.packaged_pairs import factbook_pairs

    rows = [
        {"query": one.query, "positive": one.positive}
        for one in factbook_pairs()
        if not one.held_out
    ]
    random.Random(0).shuffle(rows)  # neighbours speak of one country
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def _options() -> argparse.ArgumentParser:
    parser = harness.command("contrastive", __doc__, rounds=3, output=Path("contrastive.json"))
    parser.add_argument("model", nargs="?")
    parser.add_argument("pairs", nargs="?")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    peers = [THEIRS, TUNED, PADDED]
    parser.add_argument("--peers", nargs="+", choices=peers, default=peers)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--large", type=int, default=0, help="pairs of the batch for GradCache")
    parser.add_argument("--chunk", type=int, default=128, help="texts at a time with GradCache")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser


def _speed(job: Job, peers: Sequence[str], rounds: int) -> dict[str, object]:
    runs = {kind: partial(_in_a_process, replace(job, kind=kind)) for kind in (OURS, *peers)}
    measured = harness.in_turns(runs, rounds)
    wall = {kind: [run.wall for run in found] for kind, found in measured.items()}
    cpu = {kind: [run.cpu for run in found] for kind, found in measured.items()}
    pairs = job.batch * job.steps
    return {
        kind: {
            "pairs_per_sec": [pairs / seconds for seconds in wall[kind]],
            "pairs_per_cpu_sec": [pairs / seconds for seconds in cpu[kind]],
            "ours_is_faster_by": harness.median_ratio(wall[kind], wall[OURS]),
            "ours_is_faster_by_cpu": harness.median_ratio(cpu[kind], cpu[OURS]),
        }
        for kind in runs
    }


def _memory(job: Job, chunk: int) -> dict[str, object]:
    found: dict[str, object] = {"pairs": job.batch, "chunk": chunk}
    for name, texts in (("direct", None), ("gradcache", chunk)):
        measured = _in_a_process(replace(job, kind="memory", chunk=texts))
        found[f"{name}_mib"], found[f"{name}_cpu_seconds"] = measured.peak_mib, measured.cpu
    return found


def chart(found: Mapping[str, object]) -> Figure:
    """Pairs per second, and the memory of a large batch if measured."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    speed, memory = found.get("speed"), found.get("memory")
    if isinstance(speed, dict):
        names = [name for name in NAMES if name in speed]
        rates = [statistics.median(speed[name]["pairs_per_sec"]) for name in names]
        left.barh([NAMES[name] for name in names], rates)
        left.set_xlabel("pairs per second")
    if isinstance(memory, dict):
        right.barh(["at once", "GradCache"], [memory["direct_mib"], memory["gradcache_mib"]])
        right.set_xlabel(f"peak MiB of a step of {memory['pairs']} pairs")
    return figure


def _in_a_process(job: Job) -> Measured:
    return Measured(**harness.in_fresh_process("contrastive", "--job", json.dumps(asdict(job))))


def _steps_alone(train: Callable[[int], object], steps: int) -> Measured:
    """Time of ``steps`` steps after ``WARM_UP`` others, by PyTorch's clock after each update."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    ends: list[tuple[float, float]] = []

    def note(*_: object) -> None:
        ends.append((time.perf_counter(), time.process_time()))

    hook = register_optimizer_step_post_hook(note)
    train(WARM_UP + steps)
    hook.remove()
    (wall, cpu), (last_wall, last_cpu) = ends[WARM_UP - 1], ends[-1]
    return Measured(last_wall - wall, last_cpu - cpu, peak_memory_mib())


def _ours(job: Job) -> Measured:
    from neobert.config.compose import compose_config
    from neobert.tasks import run
    from neobert.training.cpu import tune_cpu

    tune_cpu()
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "task=contrastive",
            "dataset.name=bench",
            f"contrastive.sources={{bench:{{path:{job.pairs},query:query,positive:positive}}}}",
            f"contrastive.pretrained_model_path={job.model}",
            f"dataset.path={folder}/pairs",
            f"dataset.max_seq_length={job.max_length}",
            "dataset.pretraining_prob=0",
            "model.dropout_prob=0",
            f"trainer.per_device_train_batch_size={job.batch}",
            "trainer.eval_strategy=no",
            "trainer.save_strategy=no",
            "trainer.mixed_precision=no",
            "trainer.logging_steps=1000",
            f"trainer.output_dir={folder}/run",
        ]
        return _steps_alone(
            lambda steps: run(compose_config([*words, f"trainer.max_steps={steps}"])), job.steps
        )


def _sentence_transformers(job: Job, attention: str = "sdpa") -> Measured:
    from datasets import load_dataset

    from benchmarks.sentence_transformers_peer import Training, train

    data = load_dataset("json", data_files=job.pairs, split="train")
    data = data.select_columns(["query", "positive"]).shuffle(seed=0)

    def run(steps: int) -> None:
        how = Training(
            batch=job.batch,
            steps=steps,
            warmup=max(1, steps // 10),
            max_length=job.max_length,
            attention=attention,
        )
        train(Path(job.model), data, how)

    return _steps_alone(run, job.steps)


def _one_step(job: Job) -> Measured:
    """Peak memory that one step adds to what the process holds before it."""
    from itertools import islice

    import torch

    from neobert.config.compose import compose_config
    from neobert.data.saved_tokenizer import saved_tokenizer
    from neobert.data.tokenizer import describe_tokenizer
    from neobert.tasks.contrastive.batches import Texts
    from neobert.tasks.contrastive.gradcache import encode_texts
    from neobert.tasks.contrastive.prepared_pairs import pair_encoder
    from neobert.training.start import open_weights

    encoder = open_weights(job.model).encoder().train()
    tokenizer = describe_tokenizer(saved_tokenizer(Path(job.model)), job.model)
    length = f"dataset.max_seq_length={job.max_length}"
    encode = pair_encoder(compose_config(["task=contrastive", length]), tokenizer)
    with Path(job.pairs).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, job.batch)]
    texts = [row[side] for side in ("query", "positive") for row in rows]
    batch = Texts.of(encode.documents(texts), job.chunk)
    before, start = peak_memory_mib(), (time.perf_counter(), time.process_time())
    vectors = torch.nn.functional.normalize(encode_texts(encoder, batch, "avg"))
    queries, documents = vectors.split(len(rows))
    targets = torch.arange(len(rows))
    torch.nn.functional.cross_entropy(queries @ documents.T / 0.05, targets).backward()
    spent = time.perf_counter() - start[0], time.process_time() - start[1]
    return Measured(*spent, peak_memory_mib() - before)


def _tuned(job: Job, attention: str = "sdpa") -> Measured:
    from neobert.training.cpu import tune_cpu

    tune_cpu()
    return _sentence_transformers(job, attention)


JOBS: dict[str, Callable[[Job], Measured]] = {
    OURS: _ours,
    THEIRS: _sentence_transformers,
    TUNED: _tuned,
    PADDED: partial(_tuned, attention="eager"),
    "memory": _one_step,
}

if __name__ == "__main__":
    sys.exit(main())
