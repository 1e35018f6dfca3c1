"""How the cost of data grows with ranks and rows: ``python -m benchmarks.stream``.

- ``ranks``: seconds of processor that all ranks of a job together take for a million tokens of a
  stream, text to masked batches, by the number of ranks; the ranks are run one after the other, and
  each ends when the windows that it reads ahead are made.
  ``files``: a stream of 64 files, ``one file``: of one, which is read in parts, ``mixture``: three
  streams of 64 files each, with weights of 0.7, 0.2 and 0.1. ``workers``: how many times the tokens
  per second two loader processes make, by the processor time of the busier one.
- ``scale``: the row plan and the order of an epoch by the number of documents: seconds of
  processor, the most memory that is allocated at a time, bytes on disk, and the seconds from the
  files to the rows of a first batch.

Each measurement is a process of its own. Times are of the processor, all threads.
"""

import argparse
import json
import random
import shutil
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import harness
from benchmarks.data import real_data
from neobert.config.compose import compose_config
from neobert.console import show_messages
from neobert.data.arrays import ArrayWriter, open_array
from neobert.data.order import Order
from neobert.data.packing import Packing, RowPlan
from neobert.data.steps import Share, Steps
from neobert.data.stream import StreamBatches
from neobert.data.stream_readers import Reader, StreamRows, Window
from neobert.tasks.pretraining.data import PretrainingDataModule

MEASUREMENTS = ("ranks", "scale")
FORMS = ("files", "one file", "mixture")
RANKS = (1, 2, 4, 8, 64)
FILES = 64
WEIGHTS = {"web": 0.7, "books": 0.2, "notes": 0.1}
"""Of a mixture; its sources have as much of the text."""

ROWS_PER_STEP = 1024
"""Over all ranks: 16 for each of 64."""

PACKING = Packing(512, 512, 2, packed=True, truncate=True)

Figures = dict[str, float]


def main() -> None:
    """Run the measurements that are chosen and write their figures."""
    parser = harness.command("stream", __doc__, rounds=None, output=None)
    parser.add_argument("--only", choices=MEASUREMENTS, action="append")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/neobert-bench-data"))
    parser.add_argument("--copies", type=int, default=4, help="of the Factbook, for ranks")
    parser.add_argument("--form", choices=FORMS, action="append", help="of the stream, for ranks")
    parser.add_argument("--documents", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--here", choices=MEASUREMENTS, help="in this process, no new one")
    options = parser.parse_args()
    show_messages()
    if options.here:
        harness.answer(measure(options.here, options))
        return
    common = [f"--folder={options.folder}", f"--copies={options.copies}"]
    common += [f"--form={form}" for form in options.form or ()]
    figures: dict[str, object] = {}
    for name in options.only or MEASUREMENTS:
        sizes = options.documents if name == "scale" else options.documents[:1]
        for size in sizes:
            words = ["--here", name, *common, "--documents", str(size)]
            figures[f"{name} {size}" if name == "scale" else name] = harness.in_fresh_process(
                "stream", *words
            )
    harness.save(options.output, figures)


def measure(name: str, options: argparse.Namespace) -> dict[str, object]:
    """The figures of one measurement."""
    if name == "scale":
        return dict(measure_scale(options.documents[0]))
    figures: dict[str, object] = {}
    for form in options.form or FORMS:
        files = 1 if form == "one file" else FILES
        shares = WEIGHTS if form == "mixture" else {"": 1.0}
        paths = text_paths(options.folder, options.copies, files, shares)
        figures[form] = measure_ranks(stream_batches(options.folder, paths))
    return figures


def measure_ranks(batches: StreamBatches) -> Figures:
    """Processor seconds per million tokens by the number of ranks, and the gain of two workers."""
    steps = sum(map(rows_of_an_epoch, batches.streams)) // ROWS_PER_STEP
    groups = [stream.source.num_groups(stream.readers) for stream in batches.streams]
    found: Figures = {"parts of the files": sum(groups)}
    for ranks in RANKS:
        shares = [Share(ROWS_PER_STEP // ranks, 1, rank, ranks) for rank in range(ranks)]
        costs = [Process(batches, share).cost(steps) for share in shares]
        found[f"{ranks} ranks"] = per_million_tokens(costs)
    share = Share(ROWS_PER_STEP, 1)
    alone = Process(batches, share).cost(steps)
    two = [Process(batches, share).cost(steps, worker, 2) for worker in range(2)]
    found["gain of 2 workers"] = round(alone.seconds / max(cost.seconds for cost in two), 2)
    return found


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took, and what it made."""

    seconds: float
    windows: dict[tuple[int, int, int], int]
    """Tokens of each window: reader, epoch, window."""


def per_million_tokens(costs: Sequence[Cost]) -> float:
    """Seconds of all processes; each window must have been made by one of them."""
    windows = [window for cost in costs for window in cost.windows]
    assert len(windows) == len(set(windows)), "two processes made the same window"
    tokens = sum(sum(cost.windows.values()) for cost in costs)
    return round(sum(cost.seconds for cost in costs) / tokens * 1e6, 3)


class Process(StreamBatches):
    """A process's part of a stream. Windows that are read ahead count as work and as tokens, so
    that all numbers of processes make the same windows."""

    def __init__(self, batches: StreamBatches, share: Share) -> None:
        super().__init__(batches.streams, Steps(share), batches.order)
        self.readers: dict[int, Reader] = {}

    def cost(self, steps: int, worker: int = 0, workers: int = 1) -> Cost:
        """Of its part of the first steps, and of the windows that it has begun by then."""
        windows: dict[tuple[int, int, int], int] = {}

        def keep(window: Window, reader: int) -> None:
            place = window.start.place
            windows[reader, place.epoch, place.window] = len(window.rows.store.tokens)

        started = time.process_time()
        parts = self._parts(worker, workers)
        for part in islice(parts, steps):
            self.join([part])
            for number, reader in self.readers.items():
                if reader._window is not None:
                    keep(reader._window, number)
        for number, reader in self.readers.items():
            keep(reader._next.result(), number)
        seconds = time.process_time() - started
        parts.close()
        return Cost(seconds, windows)

    def _start(self, pool: ThreadPoolExecutor, worker: int, workers: int) -> dict[int, Reader]:
        self.readers = super()._start(pool, worker, workers)
        return self.readers


def rows_of_an_epoch(stream: StreamRows) -> int:
    """About as many rows as each reader has in an epoch, over all readers."""
    texts = [str(text) for text in stream.source]
    tokens = int(stream.maker.tokenizer.text.encode(texts)[1].sum()) + 2 * len(texts)
    return int(0.95 * tokens / stream.maker.packing.row_length)


def text_paths(
    folder: Path, copies: int, files: int, shares: Mapping[str, float]
) -> dict[str, tuple[Path, float]]:
    """``copies`` of the Factbook's fields as JSON lines, a folder of ``files`` files for each
    source with its share of the text."""
    data = real_data(folder, "factbook", 512)
    data.tokenizer.tokenizer.save_pretrained(folder / "tokenizer")
    documents = [
        json.dumps({"text": f"{copy}. {text}"})
        for copy in range(copies)
        for text in data.sources[0].source.train.texts()
    ]
    if len(shares) > 1:  # else all long documents were in the first source
        random.Random(0).shuffle(documents)
    bounds = np.round(np.cumsum([0.0, *shares.values()]) * len(documents)).astype(int).tolist()
    paths = {}
    for (name, share), (start, stop) in zip(shares.items(), pairwise(bounds), strict=True):
        paths[name] = folder / f"even{name and f'-{name}'}-{copies}-{files}", share
        write_files(paths[name][0], documents[start:stop], files)
    return paths


def write_files(folder: Path, documents: Sequence[str], files: int) -> None:
    """So many files of about as many bytes each: readers of uneven ones would share them."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    ends = np.cumsum([len(document.encode()) for document in documents])
    bounds = np.searchsorted(ends, ends[-1] * np.arange(files + 1) / files).tolist()
    for number, (start, stop) in enumerate(pairwise(bounds)):
        lines = "\n".join(documents[start : stop if number < files - 1 else None]) + "\n"
        (folder / f"part-{number:02}.jsonl").write_text(lines, encoding="utf-8")


def stream_batches(folder: Path, paths: Mapping[str, tuple[Path, float]]) -> StreamBatches:
    """The batches of these sources, each read by 64 readers."""
    sources = ", ".join(
        f"{name}: {{path: {path}, weight: {share}}}" for name, (path, share) in paths.items()
    )
    words = [
        "dataset=local",
        f"dataset.path={paths[''][0]}" if "" in paths else f"dataset.mixture={{{sources}}}",
        f"dataset.cache_dir={folder}",
        "dataset.streaming=true",
        "dataset.stream_readers=64",
        "dataset.validation_split=null",
        "dataset.eval_samples=4",
        f"tokenizer.path={folder / 'tokenizer'}",
        "tokenizer.train_vocab_size=null",
        "datacollator.pack_sequences=true",
        "trainer.max_steps=1000",
    ]
    streamed = PretrainingDataModule(compose_config(words))
    streamed.setup("fit")
    return streamed.stream_batches()


def measure_scale(documents: int) -> Figures:
    """Plan and order of ``documents`` documents of 300 tokens on average."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_offsets(folder / "offsets.npy", documents)
        offsets = open_array(folder / "offsets.npy")
        plan = folder / "plan"
        plan.mkdir()
        seconds = harness.seconds_of(lambda: PACKING.write_plan(offsets, plan))
        on_disk = sum(file.stat().st_size for file in plan.iterdir())
        first = harness.seconds_of(lambda: first_rows(plan, 0))
        peak = peak_memory(lambda: first_rows(plan, 1))
        rows = RowPlan.load(plan).num_rows
        shutil.rmtree(plan)
        plan.mkdir()
        return {
            "rows": rows,
            "plan, seconds": round(seconds, 2),
            "plan, MB at a time": round(
                peak_memory(lambda: PACKING.write_plan(offsets[: 10**6 + 1], plan)) / 1e6, 1
            ),
            "plan, bytes per document on disk": round(on_disk / documents, 1),
            "first batch, seconds": round(first, 3),
            "first batch, MB at a time": round(peak / 1e6, 1),
        }


def first_rows(plan: Path, seed: int) -> None:
    """Which documents the first batch of an epoch consists of, in an order that is not cached."""
    loaded = RowPlan.load(plan)
    order = Order(loaded.num_rows, seed, 32)
    for number in range(32):
        loaded.row(order.row(number))


def peak_memory(work: Callable[[], object]) -> int:
    """Bytes that Python and numpy allocate at a time at most, mapped files not counted."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def write_offsets(path: Path, documents: int) -> None:
    """Offsets of documents of random lengths, 300 tokens on average."""
    draw, total = np.random.default_rng(0), 0
    with ArrayWriter(path, np.int64) as file:
        file.append(np.zeros(1, np.int64))
        for first in range(0, documents, 10**6):
            lengths = draw.lognormal(np.log(300) - 0.5, 1.0, min(10**6, documents - first))
            ends = total + np.cumsum(np.maximum(1, lengths).astype(np.int64))
            file.append(ends)
            total = int(ends[-1])


if __name__ == "__main__":
    main()
