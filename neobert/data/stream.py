"""Rows from a stream that has no index: exact to the document, over stops, workers and ranks.

The stream is read window by window. A window is the next ``shuffle_buffer_size`` documents; they
are tokenised, packed and put into an order that depends on (seed, window) alone. So the place of a
run is the cursor of the upstream at the start of its window and the number of the row within it: no
buffer has to be saved, and a resumed run reads one window again and goes on with the very next row.

Every rank reads the same stream and takes its rows of each step, as with indexed data; one
background process (``dataset.num_workers`` above 0) reads ahead. Neither changes what a step sees.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import islice

import numpy as np
from datasets import IterableDataset as HubStream
from torch.utils.data import IterableDataset

from neobert.batch import MaskedBatch
from neobert.config.checks import ConfigError
from neobert.console import get_logger
from neobert.data.cache import key_of
from neobert.data.loader import Workers, build_stream_loader, over_ranks
from neobert.data.masking import Masking
from neobert.data.packing import Packing
from neobert.data.sources import Documents
from neobert.data.steps import Steps
from neobert.data.store import StoreInfo, TokenStore
from neobert.data.token_rows import RowMaker, TokenRows
from neobert.data.tokenize import tokens_of
from neobert.data.tokenizer import TokenizerInfo
from neobert.text_tokenizer import Encoded

log = get_logger(__name__)

UNSHUFFLED_WINDOW = 2048
"""Documents that are packed together where nothing is shuffled."""

State = dict[str, object]


@dataclass(frozen=True, slots=True)
class StreamRows:
    """The endless sequence of rows of a stream, window after window, epoch after epoch."""

    stream: HubStream
    documents: Documents
    """What the stream is called, whether it has ids, and how its errors are explained."""

    column: str
    tokenizer: TokenizerInfo
    masking: Masking
    packing: Packing
    window: int
    """Documents of a window; 0 or less keeps the stream's order."""

    @property
    def key(self) -> dict[str, str]:
        """What a place in the stream depends on: its text, and how rows are made of it."""
        made = [asdict(self.packing), self.window, self.tokenizer.fingerprint]
        return {"source": key_of(self.documents.key), "rows": key_of(made)}

    def windows(self, state: State) -> Iterator[tuple[State, TokenRows, np.ndarray]]:
        """Windows from the one that ``state`` is in: where it starts, its rows, their order."""
        here = deepcopy(state)
        while True:
            stream = deepcopy(self.stream)
            if here["upstream"] is not None:
                stream.load_state_dict(here["upstream"])
            documents = iter(stream)
            empty_epoch = here["upstream"] is None
            while values := self._read(documents):
                after = deepcopy(stream.state_dict())
                rows = self._rows(values, int(str(here["documents"])))
                empty_epoch = empty_epoch and rows.plan.num_rows == 0
                order = self._order(rows.plan.num_rows, int(str(here["window"])))
                yield here, rows, order
                here = {
                    "epoch": here["epoch"],
                    "window": int(str(here["window"])) + 1,
                    "upstream": after,
                    "documents": int(str(here["documents"])) + len(values),
                    "rows": int(str(here["rows"])) + rows.plan.num_rows,
                }
            if empty_epoch:
                name, shortest = self.documents.name, self.packing.shortest
                longer = f" of {shortest} tokens or more (dataset.min_length)" if shortest else ""
                raise ConfigError(f"dataset: the stream {name} has no document to train on{longer}")
            epoch = int(str(here["epoch"])) + 1
            here = {**here, "epoch": epoch, "upstream": None, "documents": 0}

    def _read(self, documents: Iterator[dict[str, object]]) -> list[object]:
        size = self.window if self.window > 0 else UNSHUFFLED_WINDOW
        try:
            return [row[self.column] for row in islice(documents, size)]
        except Exception as error:  # pyarrow, pandas and the hub's client have dozens of kinds
            raise self.documents.explain(error) from error

    def _order(self, size: int, window: int) -> np.ndarray:
        if self.window <= 0:
            return np.arange(size)
        key = np.random.SeedSequence([self.masking.seed, window])
        return np.random.Generator(np.random.PCG64DXSM(key)).permutation(size)

    def _rows(self, values: list[object], first: int) -> TokenRows:
        name = f"{self.documents.name}, counted from document {first}"
        here = replace(self.documents, name=name, read=lambda: values)
        store = memory_store(tokens_of(here, self.tokenizer, num_proc=1))
        plan = self.packing.plan(store.offsets)
        return TokenRows(store, plan, RowMaker(self.tokenizer, self.masking, self.packing))


START: State = {"epoch": 0, "window": 0, "upstream": None, "documents": 0, "rows": 0}


@dataclass(frozen=True, slots=True)
class Failure:
    """A ``ConfigError`` on its way out of a loader process, which no list inside one survives."""

    problems: list[str]


class StreamBatches(IterableDataset):  # type: ignore[type-arg]
    """Micro-batches of one rank from ``first`` on, each with the start of the window it ends in."""

    def __init__(self, rows: StreamRows, steps: Steps) -> None:
        self.rows, self.steps = rows, steps
        self.state, self.first = START, 0

    def __iter__(self) -> Iterator[tuple[MaskedBatch, State] | Failure]:
        try:
            yield from self._batches()
        except ConfigError as error:
            yield Failure(error.problems)

    def _batches(self) -> Iterator[tuple[MaskedBatch, State]]:
        micro_batch, size = self.first, self.steps.share.batch_size
        waiting: list[tuple[TokenRows, int, int]] = []
        wanted = self.steps.numbers(micro_batch)
        for start, rows, order in self.rows.windows(self.state):
            for place, row in enumerate(order.tolist()):
                number = int(str(start["rows"])) + place
                if number not in wanted:
                    continue
                waiting.append((rows, row, number))
                if len(waiting) == size:
                    yield joined(waiting, micro_batch // self.steps.share.accumulation), start
                    waiting, micro_batch = [], micro_batch + 1
                    wanted = self.steps.numbers(micro_batch)


class StreamLoader:
    """The training batches of a whole run from a stream; for Lightning one epoch."""

    def __init__(self, batches: StreamBatches, total_steps: int, workers: Workers) -> None:
        self.batches, self.total_steps = batches, total_steps
        self.workers = replace(workers, number=min(workers.number, 1))
        self._state: State = START
        self._done = 0

    def __len__(self) -> int:
        return self.total_steps * self.batches.steps.share.accumulation

    def __iter__(self) -> Iterator[MaskedBatch]:
        self.batches.state, self.batches.first = self._state, self._done
        accumulation = self.batches.steps.share.accumulation
        waiting: list[tuple[MaskedBatch, State]] = []
        loader = build_stream_loader(self.batches, self.workers)
        for item in islice(loader, len(self) - self._done):
            if isinstance(item, Failure):
                raise ConfigError(*item.problems)
            waiting.append(item)
            if len(waiting) == accumulation:
                total = over_ranks(sum(batch.num_targets for batch, _ in waiting))
                for batch, state in waiting:
                    self._done += 1
                    self._state = state
                    yield replace(batch, num_targets_in_step=total)
                waiting = []

    def state_dict(self) -> dict[str, object]:
        """Where the run is in its stream: the window's start, and micro-batches handed out."""
        place = self.batches.steps.state(self._done)
        return {"place": place, "window": self._state, "key": self.batches.rows.key}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Go on with the very next row.

        If the settings that rows are made by were changed (and that was accepted), go on at the
        start of the window; if the stream is another one, at its beginning.
        """
        place, window = state_dict["place"], state_dict["window"]
        key, saved = self.batches.rows.key, state_dict["key"]
        assert isinstance(place, dict)
        assert isinstance(window, dict)
        assert isinstance(saved, dict)
        self.batches.steps, self._done = self.batches.steps.resumed(place)
        step = self._done // self.batches.steps.share.accumulation
        first_row = self.batches.steps.first_row(step)
        if saved["source"] != key["source"]:
            log.warning("the stream is another one than before: it starts at its beginning")
            window = {**START, "rows": first_row}
        elif saved["rows"] != key["rows"]:
            log.warning("rows are made otherwise than before: some documents are seen again")
            window = {**window, "rows": first_row}
        self._state = window


def joined(parts: list[tuple[TokenRows, int, int]], step: int) -> MaskedBatch:
    """One batch of rows that may lie in several windows."""
    maker = parts[0][0].maker
    return maker.batch([maker.mask(rows.lay_out(row), number, step) for rows, row, number in parts])


def memory_store(batches: Iterable[Encoded]) -> TokenStore:
    """The token store of a window, in memory."""
    parts = list(batches)
    tokens = np.concatenate([ids for ids, _ in parts])
    lengths = np.concatenate([sizes for _, sizes in parts])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    summary = StoreInfo(len(lengths), len(tokens), int((lengths == 0).sum()), digest="")
    return TokenStore(tokens, offsets, summary)
