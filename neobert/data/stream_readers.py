"""The readers of a stream: the rows that each makes of its part, window by window.

A window is the next documents of a reader. They are tokenised, packed, and put into an order that
depends on (seed, reader, epoch, window) alone; the next window is made in the background.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neobert.config.dataset import DatasetConfig
from neobert.data.cache import key_of
from neobert.data.loading import DEFAULT_READERS
from neobert.data.order import generator
from neobert.data.sources import STREAM_SAMPLE, Documents
from neobert.data.stream_source import Cursor, ReaderGroup, StreamPlace, StreamSource
from neobert.data.token_rows import Row, RowMaker, TokenRows
from neobert.data.token_store import TokenStore
from neobert.data.tokenize import tokens_of
from neobert.errors import ConfigError
from neobert.files import explaining

UNSHUFFLED_WINDOW = 2048
"""Documents that are packed at a time, over all readers, where nothing is shuffled."""

PACKED_WINDOW = 256
"""Documents of a reader from which on packed rows are 99 % full."""

FEW_DOCUMENTS = 32
"""Documents of a short stream for each of its readers."""


@dataclass(frozen=True, slots=True)
class ReaderState:
    """Where a window of a reader begins."""

    place: StreamPlace = field(default_factory=StreamPlace)
    rows: int = 0
    """Rows of the reader before it."""

    epoch_rows: int = 0
    """Rows of the reader before its epoch."""

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> "ReaderState":
        """What ``asdict`` made a mapping of."""
        place = {**saved["place"], "cursor": Cursor(**saved["place"]["cursor"])}
        return cls(StreamPlace(**place), saved["rows"], saved["epoch_rows"])


@dataclass(frozen=True, slots=True)
class Window:
    """The rows of some documents of a reader, and what follows them."""

    start: ReaderState
    rows: TokenRows
    order: NDArray[np.int64]
    after: ReaderState


@dataclass(frozen=True, slots=True)
class StreamRows:
    """What the rows of a stream are made of, and by how many readers."""

    source: StreamSource
    documents: Documents
    """What the stream is called, whether it has ids, and how its errors are explained."""

    maker: RowMaker
    shuffled: int
    """Documents among which rows are shuffled, over all readers; 0 or less: each reader's stay in
    order."""

    readers: int = 1
    max_epochs: float | None = None
    """How often the stream may be read; ``None``: any number of times."""

    setting: str = "dataset"
    """Dotted key of its settings, for messages."""

    @property
    def window(self) -> int:
        """Documents of a reader's window."""
        together = self.shuffled if self.shuffled > 0 else UNSHUFFLED_WINDOW
        least = min(together, PACKED_WINDOW) if self.maker.packing.packed else 1
        return max(-(-together // self.readers), least)

    @property
    def key(self) -> dict[str, str]:
        """What a place in the stream depends on: its text, and how rows are made of it."""
        dealt = [self.readers, self.source.num_groups(self.readers)]
        making = [asdict(self.maker.packing), self.shuffled, self.maker.tokenizer.fingerprint]
        return {"source": key_of([self.documents.key, *dealt]), "rows": key_of(making)}

    def rows_of(
        self, values: list[object], reader: int, start: ReaderState, files: Sequence[int] = ()
    ) -> TokenRows:
        """The rows of a window's documents, which are from ``files``."""
        name = f"{self.documents.name}, window {start.place.window} of reader {reader}"
        find = self.source.find
        where = None if find is None else (lambda row: find(values[row], files))
        window = replace(self.documents, name=name, read=lambda: values, where=where)
        store = TokenStore.in_memory(tokens_of(window, self.maker.tokenizer))
        packing = self.maker.packing.of_window(reader, start.place.window)
        return TokenRows(store, packing.plan(store.offsets, epoch=start.place.epoch), self.maker)

    def order_of(self, count: int, reader: int, start: ReaderState) -> NDArray[np.int64]:
        """The order of a window's rows."""
        if self.shuffled <= 0:
            return np.arange(count)
        place, seed = start.place, self.maker.masking.seed
        return generator(seed, reader, place.epoch, place.window).permutation(count)

    def check_epochs(self, epoch: int) -> None:
        """Raise ``ConfigError`` if a row of this epoch (from 0) is one too many."""
        if self.max_epochs is not None and epoch >= self.max_epochs:
            raise ConfigError(
                f"{self.setting}.max_epochs={self.max_epochs:g}: the run has read all of "
                f"{self.documents.name} {epoch} times; resume from the last checkpoint with a "
                f"higher value, or lower {self.setting}.weight or trainer.max_steps in a new run"
            )

    def nothing_in(self, reader: int) -> ConfigError:
        """The error where a reader has gone through its part and found no row."""
        name, shortest = self.documents.name, self.maker.packing.shortest
        longer = f" of {shortest} tokens or more (dataset.min_length)" if shortest else ""
        if self.readers == 1:
            return ConfigError(
                f"{self.setting}: the stream {name} has no document to train on{longer}"
            )
        return ConfigError(
            f"dataset.stream_readers={self.readers}: the part of reader {reader} of the stream "
            f"{name} has no document to train on{longer}; set it lower"
        )


@dataclass(slots=True)
class Reader:
    """The rows of one reader in their order; the next window is made in ``pool`` meanwhile."""

    stream: StreamRows
    number: int
    group: ReaderGroup
    pool: ThreadPoolExecutor
    _window: Window | None = field(init=False, default=None)
    _next: Future[Window] = field(init=False)

    def start(self, state: ReaderState) -> None:
        """Begin with the window that ``state`` is the start of."""
        self._next = self.pool.submit(self._make, state)

    def row(self, index: int) -> tuple[Row, ReaderState]:
        """Row ``index`` of the reader, not before the one of the last call, and the start of the
        window that it is in."""
        while self._window is None or index >= self._window.after.rows:
            self._window = self._next.result()
            self._next = self.pool.submit(self._make, self._window.after)
        window = self._window
        self.stream.check_epochs(window.start.place.epoch)
        place = index - window.start.rows
        return window.rows.lay_out(int(window.order[place])), window.start

    def _make(self, state: ReaderState) -> Window:
        """The first window from ``state`` on that has a row."""
        while True:
            with explaining(self.stream.documents.explain):  # whatever the libraries of files raise
                values, place = self.group.next_window(self.number)
            files = self.group.files_between(state.place, place)
            rows = self.stream.rows_of(values, self.number, state, files)
            count = rows.plan.num_rows
            after = replace(state, place=place, rows=state.rows + count)
            if place.epoch > state.place.epoch:
                if after.rows == state.epoch_rows:
                    raise self.stream.nothing_in(self.number)
                after = replace(after, epoch_rows=after.rows)
            if count:
                order = self.stream.order_of(count, self.number, state)
                return Window(state, rows, order, after)
            state = after


def num_readers(
    settings: DatasetConfig, documents: int, trained_on: int, is_mixed: bool = False
) -> int:
    """``dataset.stream_readers``; by default 64, fewer for a stream of few documents, and one for a
    stream in its order.

    ``documents``: how many of the stream were counted (``STREAM_SAMPLE`` at most); ``trained_on``:
    those that are not held out. In a mixture (``is_mixed``) the setting is for all sources: one of
    fewer documents than readers has a divisor of it.
    """
    readers = settings.stream_readers
    most = max(1, trained_on // FEW_DOCUMENTS)
    if readers is not None:
        if not is_mixed or documents >= STREAM_SAMPLE or trained_on >= readers:
            return readers
        return next(count for count in range(most, 0, -1) if readers % count == 0)
    if settings.shuffle_buffer_size <= 0:
        return 1
    if documents >= STREAM_SAMPLE:
        return DEFAULT_READERS
    return min(DEFAULT_READERS, 1 << (most.bit_length() - 1))
