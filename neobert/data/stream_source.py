"""The documents of a stream in parts, each read once by one process and from any place on.

A stream of files is dealt to its readers by files where that can be done evenly, else by stride:
a group of readers then reads the same files, and reader ``i`` of ``n`` takes every n-th document.
A process reads the files of a group once for all readers that it runs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heapreplace
from itertools import chain, islice
from math import gcd

from datasets import IterableDataset

CHUNK = 64
"""Documents that are taken from ``datasets`` at a time. Its cursors hold for one size only."""

UNEVEN = 1.125
"""How many times as much as another group one may have: a file in eight."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place among the documents of some files."""

    file: int = 0
    """Index into the files."""

    state: dict[str, object] | None = None
    """Of ``datasets``, before a chunk of the file; ``None``: at the file's beginning."""

    passed: int = 0
    """Documents since then that are before the place."""


@dataclass(frozen=True, slots=True)
class StreamSource:
    """The documents of a stream, from number ``first`` up to ``stop``."""

    dataset: IterableDataset
    column: str
    sizes: tuple[int, ...] = ()
    """Bytes of each file, where they are known."""

    first: int = 0
    stop: int | None = None
    find: Callable[[object, Sequence[int]], str | None] | None = None
    """File and row of a document of some of the files, for messages; reads them."""

    def __iter__(self) -> Iterator[object]:
        files = map(self.documents, range(self.num_files))
        return islice(chain.from_iterable(files), self.first, self.stop)

    @property
    def num_files(self) -> int:
        """Files that can be read each by itself."""
        return self.dataset.num_shards if self.stop is None else 1

    def num_groups(self, readers: int) -> int:
        """Groups of readers, each with files of its own: a divisor of ``readers``."""
        divisors = [count for count in range(readers, 0, -1) if readers % count == 0]
        return next(count for count in divisors if _dealt(self, count) is not None)

    def files_of(self, group: int, groups: int) -> Sequence[int]:
        """The files of a group, where :meth:`num_groups` gives so many."""
        dealt = _dealt(self, groups)
        assert dealt is not None
        return dealt[group]

    def heads(self) -> list[int]:
        """Documents before ``first`` in each file that has any; reads those, once."""
        return _before(self)[0]

    def documents(self, file: int) -> Iterator[object]:
        """All documents of a file."""
        for chunk, _ in self.chunks(file, None):
            yield from chunk

    def chunks(
        self, file: int, state: dict[str, object] | None
    ) -> Iterator[tuple[list[object], dict[str, object] | None]]:
        """Chunks of a file from a state of ``datasets`` on, each with the state before it."""
        # Also of one file: what is iterated is then an object of its own, which holds the cursor.
        part = self.dataset.select_columns([self.column]).shard(self.num_files, file)
        if state is not None:
            part.load_state_dict(state)
        for batch in part.iter(CHUNK):  # not plain iteration: that deals to loader processes
            yield batch[self.column], state
            state = part.state_dict()


@lru_cache(maxsize=64)
def _before(source: StreamSource) -> tuple[list[int], int]:
    """Documents before ``first`` in each file that has any, and their characters in the last."""
    remaining, counts, size = source.first, [], 0
    for file in range(source.num_files if source.first else 0):
        sizes = [len(str(value)) for value in islice(source.documents(file), remaining)]
        counts.append(len(sizes))
        size = sum(sizes)
        remaining -= len(sizes)
        if not remaining:
            break
    return counts, size


@lru_cache(maxsize=64)
def _dealt(source: StreamSource, groups: int) -> tuple[Sequence[int], ...] | None:
    """The files of each group: every n-th, else by their sizes; ``None`` where neither is even."""
    counts, size = _before(source)
    is_known = len(source.sizes) == source.num_files
    remaining = list(source.sizes) if is_known else [1] * source.num_files
    for file in range(len(counts)):
        is_last = file == len(counts) - 1
        remaining[file] = max(0, remaining[file] - size * is_known) if is_last else 0
    ways: list[tuple[Sequence[int], ...]] = [
        tuple(range(group, source.num_files, groups) for group in range(groups))
    ]
    if is_known and source.num_files > groups > 1:
        ways.append(_by_size(remaining, groups))
    return next((dealt for dealt in ways if _is_even(dealt, remaining)), None)


def _by_size(sizes: Sequence[int], groups: int) -> tuple[Sequence[int], ...]:
    """The largest file first, each to the group that has the least so far."""
    dealt: tuple[list[int], ...] = tuple([] for _ in range(groups))
    least = [(0, group) for group in range(groups)]
    for file in sorted(range(len(sizes)), key=lambda file: -sizes[file]):
        size, group = least[0]
        dealt[group].append(file)
        heapreplace(least, (size + sizes[file], group))
    return tuple(sorted(files) for files in dealt)


def _is_even(dealt: Sequence[Sequence[int]], sizes: Sequence[int]) -> bool:
    """Whether each group gets about as much to train on."""
    shares = [sum(sizes[file] for file in files) for files in dealt]
    return len(dealt) == 1 or 0 < max(shares) <= UNEVEN * min(shares)


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """Where a window of a group begins, the same for all its readers."""

    epoch: int = 0
    window: int = 0
    """Windows before it in the epoch."""

    documents: int = 0
    """Documents of the group before it in the epoch."""

    cursor: Cursor = Cursor()


@dataclass(slots=True)
class ReaderGroup:
    """The readers of some files; a window of the group is dealt to them document by document."""

    source: StreamSource
    number: int
    groups: int
    readers: int
    """Readers of the group, in all processes."""

    window: int
    """Documents of a reader's window."""

    waiting: dict[int, StreamPlace]
    """Readers of this process, by their number in the stream, and where each continues."""

    _front: StreamPlace = field(init=False)
    _read: dict[tuple[int, int], tuple[StreamPlace, dict[int, list[object]]]] = field(
        init=False, default_factory=dict
    )
    _documents: Iterator[tuple[object, Cursor]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._front = min(self.waiting.values(), key=in_order)

    def files_between(self, start: StreamPlace, stop: StreamPlace) -> Sequence[int]:
        """The files that a window has documents of, by the places where it and the next begin."""
        files = self.source.files_of(self.number, self.groups)
        last = stop.cursor.file + 1 if stop.epoch == start.epoch else None
        return files[start.cursor.file : last]

    def next_window(self, reader: int) -> tuple[list[object], StreamPlace]:
        """The documents of a reader's next window, and where the one after begins.

        The last window of an epoch is what is left and may be empty.
        """
        place = self.waiting[reader]
        while in_order(place) not in self._read:
            self._read_window()
        after, dealt = self._read[in_order(place)]
        documents = dealt.pop(reader)
        if not dealt:
            del self._read[in_order(place)]
        self.waiting[reader] = after
        return documents, after

    def _read_window(self) -> None:
        """Read on, once for all readers of this process."""
        place = self._front
        if self._documents is None:
            self._documents = self._open(place)
        count = self.readers * self.documents_in(place.window)
        mine = {
            number for number in self.waiting if in_order(self.waiting[number]) <= in_order(place)
        }
        dealt: dict[int, list[object]] = {number: [] for number in mine}
        read, cursor = 0, place.cursor
        for value, behind in islice(self._documents, count):
            cursor = behind
            reader = self.number + read % self.readers * self.groups
            if reader in mine:
                dealt[reader].append(value)
            read += 1
        if read == count:
            after = StreamPlace(place.epoch, place.window + 1, place.documents + read, cursor)
        else:
            after, self._documents = StreamPlace(place.epoch + 1), None
        if mine:
            self._read[in_order(place)] = after, dealt
        self._front = after

    def _open(self, place: StreamPlace) -> Iterator[tuple[object, Cursor]]:
        """The documents from ``place`` on to the end of the last file, each with the cursor behind
        it."""
        first, stop = self.source.first, self.source.stop
        limit = None if stop is None else max(0, stop - first - place.documents)
        return islice(self._from(place.cursor), limit)

    def _from(self, cursor: Cursor) -> Iterator[tuple[object, Cursor]]:
        files, heads = self.source.files_of(self.number, self.groups), self.source.heads()
        for index in range(cursor.file, len(files)):
            file, state, passed = files[index], cursor.state, cursor.passed
            if index != cursor.file or cursor == Cursor():
                state, passed = None, heads[file] if file < len(heads) else 0
            for chunk, before in self.source.chunks(file, state):
                for place in range(passed, len(chunk)):
                    yield chunk[place], Cursor(index, before, place + 1)
                passed = max(0, passed - len(chunk))

    def documents_in(self, window: int) -> int:
        """Documents of a reader in a window: few in the first, so that a run starts soon."""
        return self.window if window else max(1, self.window // 4)


def in_order(place: StreamPlace) -> tuple[int, int]:
    """What places of a group are sorted by."""
    return place.epoch, place.window


def readers_of(process: int, processes: int, readers: int) -> range:
    """The readers that a process runs where row ``g`` is made by process ``g mod processes`` from
    what reader ``g mod readers`` reads.

    Those of no other process where ``processes`` divides ``readers``.
    """
    common = gcd(processes, readers)
    return range(process % common, readers, common)
