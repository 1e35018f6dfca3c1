"""How fast the data stream is, and what it costs: ``python -m benchmarks.data``.

Each measurement runs in a process of its own and prints one line of JSON:

- ``pack``: fill of packed rows on real text at 512 and 1024 tokens;
- ``loader``: masked tokens per second out of a store, packed, from one background process;
- ``tokenise``: tokens per second from text;
- ``prepare``: processor time and memory from text to a complete token store and plan, per document;
- ``resume``: seconds from the settings to the first batch, amid a run over many documents;
- ``memory``: resident memory that reading a large store adds to the process.

Times are wall times, the best of several; where other programs share the machine, the time of the
processor (``cpu``) is the steadier number.
"""

import argparse
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks import harness
from neobert.config.compose import compose_config
from neobert.console import show_messages
from neobert.data.corpora import read_corpus
from neobert.data.loader import MicroBatches, RunRows, SourceRows, StepLoader, Workers
from neobert.data.order import Order
from neobert.data.packing import Packing, RowPlan
from neobert.data.steps import Share, Steps
from neobert.data.token_rows import RowMaker, TokenRows
from neobert.data.token_store import TokenStore, write_store
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.text_tokenizer import Encoded

MEASUREMENTS = ("pack", "loader", "tokenise", "prepare", "resume", "memory")
VOCABULARY = 8192
ROUNDS = 7
Figures = dict[str, float | str]


def main() -> None:
    """Run the measurements that are chosen, each in a fresh process, and write their figures."""
    parser = harness.command("data", __doc__, rounds=None, output=None)
    parser.add_argument("--only", choices=MEASUREMENTS, action="append")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/neobert-bench-data"))
    parser.add_argument("--documents", type=int, default=1_000_000, help="of prepare and resume")
    parser.add_argument("--tokens", type=int, default=500_000_000, help="of memory, 2 bytes each")
    parser.add_argument("--here", choices=MEASUREMENTS, help="in this process, no new one")
    options = parser.parse_args()
    show_messages()
    if options.here:
        harness.answer(measure(options.here, options))
        return
    figures = {name: in_fresh_process(name, options) for name in options.only or MEASUREMENTS}
    harness.save(options.output, figures)


def in_fresh_process(name: str, options: argparse.Namespace) -> Figures:
    """One measurement in a process of its own, in whose memory nothing else is."""
    words = [f"--{key}={getattr(options, key)}" for key in ("folder", "documents", "tokens")]
    return harness.in_fresh_process("data", "--here", name, *words)


def measure(name: str, options: argparse.Namespace) -> Figures:
    """The figures of one measurement."""
    match name:
        case "pack":
            return measure_packing(options.folder)
        case "loader":
            return measure_loader(options.folder)
        case "tokenise":
            return measure_tokenising(options.folder)
        case "prepare":
            return measure_preparing(options.folder, options.documents)
        case "resume":
            return measure_resume(options.folder, options.documents)
        case _:
            return measure_memory(options.folder, options.tokens)


def measure_packing(folder: Path) -> Figures:
    """Share of the places of packed rows that hold text, by corpus and length."""
    found: Figures = {}
    for corpus in ("factbook", "imdb"):
        for length in (512, 1024):
            data = real_data(folder, corpus, length)
            found[f"{corpus} {length}"] = round(data.sources[0].train_plan.fill, 5)
    return found


def measure_loader(folder: Path) -> Figures:
    """Tokens per second from one background process, and per second of processor here."""
    data = real_data(folder, "factbook", 512)
    batches = data.micro_batches()
    steps = range(40)
    batches[0]
    started = time.process_time()
    cpu_tokens = sum(batches[number].inputs.num_tokens for number in steps)
    cpu = time.process_time() - started
    loader = iter(StepLoader(batches, len(steps) * (ROUNDS + 1), Workers(1, 4)))
    rates = []
    for _ in range(ROUNDS + 1):  # the first one starts the process
        started = time.perf_counter()
        tokens = sum(next(loader).inputs.num_tokens for _ in steps)
        rates.append(tokens / (time.perf_counter() - started))
    return {"tokens_per_sec": round(max(rates[1:])), "tokens_per_cpu_sec": round(cpu_tokens / cpu)}


def measure_tokenising(folder: Path) -> Figures:
    """Tokens per second from text by one thread: what training on the fly would wait for."""
    text = real_data(folder, "factbook", 512).tokenizer.text
    texts = read_corpus("factbook")["train"][:4000]
    rates, cpu_rates = [], []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = len(text.encode(texts)[0])
        rates.append(tokens / (time.perf_counter() - wall))
        cpu_rates.append(tokens / (time.process_time() - cpu))
    return {"tokens_per_sec": round(max(rates)), "tokens_per_cpu_sec": round(max(cpu_rates))}


def measure_preparing(folder: Path, documents: int) -> Figures:
    """What it takes to make tokens and rows of so many lines of about 25 words."""
    lines = folder / f"lines-{documents}.txt"
    if not lines.exists():
        write_lines(lines, documents)
        real_data(folder, "factbook", 512).tokenizer.tokenizer.save_pretrained(folder / "tokenizer")
        # Once more where making the text has left nothing in memory.
        size = f"--folder={folder}", f"--documents={documents}"
        return harness.in_fresh_process("data", "--here", "prepare", *size)
    cache = folder / f"prepared-{documents}"
    shutil.rmtree(cache, ignore_errors=True)
    words = [
        f"dataset.path={lines}",
        "dataset.streaming=false",
        f"dataset.cache_dir={cache}",
        "dataset.num_proc=1",
        f"tokenizer.path={folder / 'tokenizer'}",
        "tokenizer.train_vocab_size=null",
        "datacollator.pack_sequences=true",
    ]
    cpu = time.process_time()
    with AnonymousMemory() as memory:
        data = PretrainingDataModule(compose_config(words))
        data.setup("fit")
    cpu, warm = time.process_time() - cpu, time.process_time()
    data = PretrainingDataModule(compose_config(words))
    data.setup("fit")
    data.micro_batches()[0]
    return {
        "documents": data.sources[0].train_store.info.documents,
        "tokens": data.sources[0].train_store.info.tokens,
        "cpu_us_per_document": round(cpu / documents * 1e6, 1),
        "added_mib": round(memory.added, 1),
        "first_batch_cpu_seconds": round(time.process_time() - warm, 2),
    }


def measure_resume(folder: Path, documents: int) -> Figures:
    """Preparing ids that are given, and seconds until the first batch of a resumed run whose tokens
    are cached, imports apart."""
    source, cache = folder / f"documents-{documents}", folder / f"resumed-{documents}"
    if not source.exists():
        write_ids(source, documents)
        real_data(folder, "factbook", 512).tokenizer.tokenizer.save_pretrained(folder / "tokenizer")
        # Once more where making the ids has left nothing in memory.
        size = f"--folder={folder}", f"--documents={documents}"
        return harness.in_fresh_process("data", "--here", "resume", *size)
    shutil.rmtree(cache, ignore_errors=True)
    words = [
        f"dataset.path={source}",
        "dataset.streaming=false",
        f"dataset.cache_dir={cache}",
        "dataset.num_proc=1",
        f"tokenizer.path={folder / 'tokenizer'}",
        "tokenizer.train_vocab_size=null",
        "datacollator.pack_sequences=true",
        "dataset.num_workers=0",
    ]
    cpu = time.process_time()
    with AnonymousMemory() as memory:
        PretrainingDataModule(compose_config(words)).setup("fit")
    cpu = time.process_time() - cpu
    warm = [first_batch_after(words, 3000) for _ in range(3)]
    return {
        "preparation of ids, cpu_us_per_document": round(cpu / documents * 1e6, 1),
        "preparation of ids, added_mib": round(memory.added, 1),
        "seconds": round(min(wall for wall, _ in warm), 2),
        "cpu_seconds": round(min(cpu for _, cpu in warm), 2),
    }


def first_batch_after(words: list[str], steps: int) -> tuple[float, float]:
    """Seconds of clock and processor from the settings of a resumed run to its first batch."""
    wall, cpu = time.perf_counter(), time.process_time()
    data = PretrainingDataModule(compose_config(words))
    data.setup("fit")
    loader = data.train_dataloader()
    assert isinstance(loader, StepLoader)
    loader.load_state_dict({**loader.state_dict(), **Steps(data.share).state(steps)})
    next(iter(loader))
    return time.perf_counter() - wall, time.process_time() - cpu


def measure_memory(folder: Path, tokens: int) -> Figures:
    """MiB of resident memory that a loader over a store of ``tokens`` adds to its process."""
    store = folder / f"store-{tokens}"
    plan = folder / f"plan-{tokens}"
    info = real_data(folder, "factbook", 512).tokenizer
    packing = Packing(512, 512, info.wrapping, packed=True, truncate=False)
    if not store.exists():
        store.mkdir(parents=True)
        write_store(store, random_documents(tokens), VOCABULARY)
        plan.mkdir()
        packing.write_plan(TokenStore.open(store).offsets, plan)
        # Once more where making the store has left nothing in memory.
        size = f"--folder={folder}", f"--tokens={tokens}"
        return harness.in_fresh_process("data", "--here", "memory", *size)
    masking = real_data(folder, "factbook", 512).masking(None)
    before = resident()
    maker = RowMaker(info, masking, packing)
    rows = TokenRows(TokenStore.open(store), RowPlan.load(plan), maker)
    order = Order(rows.plan.num_rows, 0, 16)
    batches = MicroBatches(RunRows([SourceRows([rows], order)]), rows.maker, Steps(Share(16, 1)))
    after_open = resident()
    seen = sum(batches[number].inputs.num_tokens for number in range(3000))
    return {
        "store_mb": round(sum(file.stat().st_size for file in store.rglob("tokens.npy")) / 1e6),
        "documents": len(rows.store.offsets) - 1,
        "added_mib_open": round(after_open - before, 1),
        "added_mib": round(resident() - before, 1),
        "tokens_read": seen,
    }


def real_data(folder: Path, corpus: str, length: int) -> PretrainingDataModule:
    """A packaged corpus, tokenised and packed into rows of ``length``."""
    words = [
        f"dataset={corpus}",
        f"dataset.cache_dir={folder}",
        f"dataset.max_seq_length={length}",
        f"model.max_position_embeddings={length}",
        f"tokenizer.train_vocab_size={VOCABULARY}",
        "tokenizer.truncation=false",
        "datacollator.pack_sequences=true",
        "datacollator.mlm_probability=0.2",
        "datacollator.mask_all=true",
    ]
    data = PretrainingDataModule(compose_config(words))
    data.setup("fit")
    return data


def random_documents(tokens: int, size: int = 4_000_000) -> Iterator[Encoded]:
    """Documents of random ids, 500 tokens each on average, as many as give ``tokens``."""
    draw = np.random.default_rng(0)
    for _ in range(0, tokens, size):
        lengths = draw.geometric(1 / 500, size // 500)
        yield draw.integers(5, VOCABULARY, int(lengths.sum()), dtype=np.uint32), lengths


def write_ids(folder: Path, documents: int) -> None:
    """A folder of parquet with ``documents`` lists of about 60 ids."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    schema = pa.schema([("input_ids", pa.list_(pa.int32()))])
    with parquet.ParquetWriter(folder / "ids.parquet", schema) as file:
        for first in range(0, documents, 10**6):
            lengths = draw.geometric(1 / 60, min(10**6, documents - first))
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            ids = draw.integers(5, 5000, int(offsets[-1]), dtype=np.int32)
            column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
            file.write_table(pa.table({"input_ids": column}, schema))


def write_lines(file: Path, documents: int) -> None:
    """A text file of ``documents`` lines out of the World Factbook."""
    words = " ".join(read_corpus("factbook")["train"]).split()
    draw = np.random.default_rng(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as opened:
        for first in draw.integers(0, len(words) - 200, documents):
            count = draw.geometric(1 / 25)
            opened.write(" ".join(words[first : first + min(count, 200)]) + "\n")


class AnonymousMemory:
    """The most anonymous memory within the block beyond that at its start: mapped files apart."""

    def __enter__(self) -> "AnonymousMemory":
        self.added, self._before = 0.0, self._now()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._watch.join()

    def _sample(self) -> None:
        while not self._done.wait(0.05):
            self.added = max(self.added, self._now() - self._before)

    @staticmethod
    def _now() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def resident() -> float:
    """MiB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
