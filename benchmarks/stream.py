"""How the cost of data grows with ranks and rows: ``python -m benchmarks.stream``.

- ``ranks``: seconds of processor that all ranks of a job together take for a million tokens of a
  stream, text to masked batches, by the number of ranks; the ranks are run one after the other, and
  each ends when the windows that it reads ahead are made.
  ``files``: a stream of 64 files, ``one file``: of one, which is read in parts. ``workers``: how
  many times the tokens per second two loader processes make, by the processor time of the busier
  one.
- ``scale``: the row plan and the order of an epoch by the number of documents: seconds of
  processor, the most memory that is allocated at a time, bytes on disk, and the seconds from the
  files to the rows of a first batch.

Each measurement is a process of its own. Times are of the processor, all threads.
"""

import argparse
import json
import shutil
import time
import tracemalloc
from collections.abc import Callable, Sequence
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
RANKS = (1, 2, 4, 8, 64)
FILES = 64
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
    parser.add_argument("--documents", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--here", choices=MEASUREMENTS, help="in this process, no new one")
    options = parser.parse_args()
    show_messages()
    if options.here:
        harness.answer(measure(options.here, options))
        return
    common = [f"--folder={options.folder}", f"--copies={options.copies}"]
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
    return {
        form: measure_ranks(options.folder, options.copies, files)
        for form, files in (("files", FILES), ("one file", 1))
    }


def measure_ranks(folder: Path, copies: int, files: int) -> Figures:
    """Processor seconds per million tokens by the number of ranks, and the gain of two workers."""
    stream = text_stream(folder, copies, files)
    steps = rows_of_an_epoch(stream) // ROWS_PER_STEP
    found: Figures = {"parts of the files": stream.source.num_groups(stream.readers)}
    for ranks in RANKS:
        shares = [Share(ROWS_PER_STEP // ranks, 1, rank, ranks) for rank in range(ranks)]
        costs = [Process(stream, share).cost(steps) for share in shares]
        found[f"{ranks} ranks"] = per_million_tokens(costs)
    share = Share(ROWS_PER_STEP, 1)
    alone = Process(stream, share).cost(steps)
    two = [Process(stream, share).cost(steps, worker, 2) for worker in range(2)]
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

    def __init__(self, stream: StreamRows, share: Share) -> None:
        super().__init__([stream], Steps(share))
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


def text_stream(folder: Path, copies: int, files: int) -> StreamRows:
    """``copies`` of the Factbook's fields as JSON lines in ``files`` files, read by 64 readers."""
    texts = folder / f"even-{copies}-{files}"
    data = real_data(folder, "factbook", 512)
    if not texts.exists():
        texts.mkdir(parents=True)
        documents = [
            json.dumps({"text": f"{copy}. {text}"})
            for copy in range(copies)
            for text in data.sources[0].source.train.texts()
        ]
        ends = np.cumsum([len(document.encode()) for document in documents])
        # As many bytes in each: readers of uneven files share them, and each reads them all.
        bounds = np.searchsorted(ends, ends[-1] * np.arange(files + 1) / files).tolist()
        for number, (start, stop) in enumerate(pairwise(bounds)):
            lines = "\n".join(documents[start : stop if number < files - 1 else None]) + "\n"
            (texts / f"part-{number:02}.jsonl").write_text(lines, encoding="utf-8")
    data.tokenizer.tokenizer.save_pretrained(folder / "tokenizer")
    words = [
        "dataset=local",
        f"dataset.path={texts}",
        f"dataset.cache_dir={folder}",
        "dataset.streaming=true",
        "dataset.validation_split=null",
        "dataset.eval_samples=64",
        f"tokenizer.path={folder / 'tokenizer'}",
        "tokenizer.train_vocab_size=null",
        "datacollator.pack_sequences=true",
        "trainer.max_steps=1000",
    ]
    streamed = PretrainingDataModule(compose_config(words))
    streamed.setup("fit")
    return streamed.stream_batches().streams[0]


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
