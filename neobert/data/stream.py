"""Rows from a stream that has no index: exact to the document, over stops, workers and ranks.

The stream is read window by window. A window is the next ``shuffle_buffer_size`` documents; they
are tokenised, packed and put into an order that depends on (seed, window) alone. So the place of a
run is the cursor of the upstream at the start of its window and the number of the row within it: no
buffer has to be saved, and a resumed run reads one window again and goes on with the very next row.

Every rank reads the same stream and takes its rows of each step, as with indexed data; one
background process (``dataset.num_workers`` above 0) reads ahead. Neither changes what a step sees.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from datasets import IterableDataset as HubStream
from torch.utils.data import IterableDataset

from neobert.batch import MaskedBatch
from neobert.config.checks import ConfigError
from neobert.data.loader import (
    Rows,
    Share,
    Workers,
    build_stream_loader,
    data_step,
    over_ranks,
)
from neobert.data.masking import Masking
from neobert.data.packing import cut_documents, plan_packed, plan_single
from neobert.data.store import StoreInfo, TokenStore
from neobert.data.tokenizer import TokenizerInfo, text_tokenizer

UNSHUFFLED_WINDOW = 2048
"""Documents that are packed together where nothing is shuffled."""

State = dict[str, object]


@dataclass(frozen=True, slots=True)
class Packing:
    """How documents become rows."""

    row_length: int
    packed: bool
    truncate: bool
    shortest: int = 0
    multiple: int = 1


@dataclass(frozen=True, slots=True)
class StreamRows:
    """The endless sequence of rows of a stream, window after window, epoch after epoch."""

    stream: HubStream
    column: str
    tokenizer: TokenizerInfo
    masking: Masking
    packing: Packing
    window: int
    """Documents of a window; 0 or less keeps the stream's order."""

    def windows(self, state: State) -> Iterator[tuple[State, Rows, np.ndarray]]:
        """Windows from the one that ``state`` is in: where it starts, its rows, their order."""
        here = deepcopy(state)
        while True:
            stream = deepcopy(self.stream)
            if here["upstream"] is not None:
                stream.load_state_dict(here["upstream"])
            documents = iter(stream)
            empty_epoch = here["upstream"] is None
            while texts := [row[self.column] or "" for row in islice(documents, self._size)]:
                empty_epoch = False
                after = deepcopy(stream.state_dict())
                rows = self._rows(texts)
                order = self._order(rows.plan.num_rows, int(str(here["window"])))
                yield here, rows, order
                here = {
                    "epoch": here["epoch"],
                    "window": int(str(here["window"])) + 1,
                    "upstream": after,
                    "rows": int(str(here["rows"])) + rows.plan.num_rows,
                }
            if empty_epoch:
                raise ConfigError(["dataset: the stream has no document to train on"])
            here = {**here, "epoch": int(str(here["epoch"])) + 1, "upstream": None}

    @property
    def _size(self) -> int:
        return self.window if self.window > 0 else UNSHUFFLED_WINDOW

    def _order(self, size: int, window: int) -> np.ndarray:
        if self.window <= 0:
            return np.arange(size)
        key = np.random.SeedSequence([self.masking.seed, window])
        return np.random.Generator(np.random.PCG64DXSM(key)).permutation(size)

    def _rows(self, texts: list[str]) -> Rows:
        store = memory_store(texts, self.tokenizer)
        packing, wrapping = self.packing, self.tokenizer.wrapping
        room = packing.row_length - wrapping
        pieces = cut_documents(store.lengths, room, packing.truncate, packing.shortest)
        plan = plan_packed if packing.packed else plan_single
        return Rows(
            store=store,
            plan=plan(pieces, packing.row_length, wrapping),
            tokenizer=self.tokenizer,
            masking=self.masking,
            packed=packing.packed,
            multiple=packing.multiple,
        )


START: State = {"epoch": 0, "window": 0, "upstream": None, "rows": 0}


class StreamBatches(IterableDataset):  # type: ignore[type-arg]
    """Micro-batches of one rank from ``first`` on, each with the start of the window it ends in."""

    def __init__(self, rows: StreamRows, share: Share, skipped: Sequence[range]) -> None:
        self.rows, self.share, self.skipped = rows, share, sorted(skipped, key=lambda s: s.start)
        self.state, self.first = START, 0

    def numbers(self, micro_batch: int) -> range:
        """Row numbers of this rank's micro-batch, the skipped steps left out."""
        step, part = divmod(micro_batch, self.share.accumulation)
        step = data_step(step, self.skipped)
        return self.share.numbers(step * self.share.accumulation + part)

    def __iter__(self) -> Iterator[tuple[MaskedBatch, State]]:
        share, micro_batch = self.share, self.first
        waiting: list[tuple[Rows, int, int]] = []
        wanted = self.numbers(micro_batch)
        for start, rows, order in self.rows.windows(self.state):
            for place, row in enumerate(order.tolist()):
                number = int(str(start["rows"])) + place
                if number not in wanted:
                    continue
                waiting.append((rows, row, number))
                if len(waiting) == share.batch_size:
                    yield joined(waiting), start
                    waiting, micro_batch = [], micro_batch + 1
                    wanted = self.numbers(micro_batch)


class StreamLoader:
    """The training batches of a whole run from a stream; for Lightning one epoch."""

    def __init__(self, batches: StreamBatches, total_steps: int, workers: Workers) -> None:
        self.batches, self.share, self.total_steps = batches, batches.share, total_steps
        self.workers = replace(workers, number=min(workers.number, 1))
        self._state: State = START
        self._done = 0

    def __len__(self) -> int:
        return self.total_steps * self.share.accumulation

    def __iter__(self) -> Iterator[MaskedBatch]:
        self.batches.state, self.batches.first = self._state, self._done
        waiting: list[MaskedBatch] = []
        states: list[State] = []
        for batch, state in islice(
            build_stream_loader(self.batches, self.workers), len(self) - self._done
        ):
            waiting.append(batch)
            states.append(state)
            if len(waiting) == self.share.accumulation:
                total = over_ranks(sum(one.num_targets for one in waiting))
                for one, after in zip(waiting, states, strict=True):
                    self._done += 1
                    self._state = after
                    yield replace(one, num_targets_in_step=total)
                waiting, states = [], []

    def state_dict(self) -> dict[str, object]:
        """Where the run is in its stream: the window's start, and micro-batches handed out."""
        return {"micro_batches": self._done, "window": self._state}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self._done = int(str(state_dict["micro_batches"]))
        window = state_dict["window"]
        assert isinstance(window, dict)
        self._state = window


def joined(parts: list[tuple[Rows, int, int]]) -> MaskedBatch:
    """One batch of rows that may lie in several windows."""
    rows = parts[0][0]
    return rows.batch_of([(one.lay_out(row), number) for one, row, number in parts])


def memory_store(texts: list[str], info: TokenizerInfo) -> TokenStore:
    """The token store of a window, in memory."""
    core = text_tokenizer(info.tokenizer)
    found = [one.ids for one in core.encode_batch(texts, add_special_tokens=False)]
    lengths = np.array([len(ids) for ids in found], dtype=np.int64)
    tokens = np.fromiter((token for ids in found for token in ids), dtype=np.uint32)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    summary = StoreInfo(len(texts), len(tokens), int((lengths == 0).sum()), "")
    return TokenStore(tokens, offsets, summary, folder=None)  # type: ignore[arg-type]
