"""Training batches from a stream that has no index: the same for every number of processes.

A fixed number of readers (``dataset.stream_readers``) each own a part of the stream, read it window
by window, and make rows of it: the documents of a window are tokenised, packed and put into an
order that depends on (seed, reader, window) alone. The rows of the run are dealt from the readers
in rotation: row ``g`` is the next row of reader ``g mod readers``. MosaicML's Streaming calls such
readers canonical nodes; it deals samples, not packed rows.

Row ``g`` is made by rank ``g mod ranks``, there by the worker that runs its reader. Where the
number of ranks divides the number of readers, each runs readers that no other runs, so every
document is read, tokenised and packed once. The place of a run is the number of its next row, and
for each reader the cursor at the start of its window: a resumed run reads one window per reader
again, under any number of ranks and workers, and continues with the very next row.

In a mixture each stream has readers of its own, and
:class:`~neobert.data.reader_order.DealtReaders` says which of them makes a row, such that no two
ranks need the same one. The place of a run is then also the number of rows of each reader.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, chain, count, islice, pairwise
from math import gcd
from typing import Any

import torch.distributed as dist
from torch.utils.data import IterableDataset, get_worker_info

from neobert.batch import MaskedBatch
from neobert.console import get_logger
from neobert.data.loader import TrainingLoader, Workers, build_loader, with_targets_of_step
from neobert.data.mixture import ONE_SOURCE, SourceOrder
from neobert.data.reader_order import DealtReaders, ReaderOrder, ReaderRotation
from neobert.data.steps import Steps, of_whole_run
from neobert.data.stream_readers import Reader, ReaderState, StreamRows
from neobert.data.stream_source import ReaderGroup, StreamPlace, in_order, readers_of
from neobert.data.token_rows import MaskedRow
from neobert.errors import ConfigError

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StreamPart:
    """The rows of a micro-batch that one process makes."""

    rows: list[tuple[int, MaskedRow]]
    """Each with its number in the run."""

    states: dict[int, ReaderState]
    """Of the readers that they are from, the windows that they are in."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A ``ConfigError`` on its way out of a loader process, which no list inside one survives."""

    problems: list[str]


class StreamBatches(IterableDataset):  # type: ignore[type-arg]
    """A rank's micro-batches from ``first`` on; each worker gives its part of every one."""

    def __init__(
        self, streams: Sequence[StreamRows], steps: Steps, order: SourceOrder = ONE_SOURCE
    ) -> None:
        """``order`` says which stream each row is from."""
        self.streams, self.steps, self.order = streams, steps, order
        for stream in streams:
            stream.source.heads()  # read here, once for all loader processes
        self.first_readers = list(accumulate((stream.readers for stream in streams), initial=0))
        """Number of the first reader of each stream among the readers of all."""

        self.states: dict[int, ReaderState] = {}
        """Where the readers continue; those that are missing have not begun."""

        self.first = 0
        self.begun: tuple[int, list[int] | None] = 0, None
        """The first row of a step before which all rows are made, and how many by each reader."""

    def __iter__(self) -> Iterator[StreamPart | Failure]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        try:
            yield from self._parts(worker, workers)
        except ConfigError as error:
            yield Failure(error.problems)

    def micro_batches(self) -> Iterator[MaskedBatch]:
        """The micro-batches, all made in this process."""
        return (self.join([part]) for part in self._parts(0, 1))

    def join(self, parts: Iterable[StreamPart]) -> MaskedBatch:
        """The micro-batch of all its parts."""
        rows = sorted((row for part in parts for row in part.rows), key=lambda row: row[0])
        return self.streams[0].maker.batch([row for _, row in rows])

    def workers(self, requested: int) -> int:
        """Loader processes, at most ``requested``, such that none runs a reader of another."""
        if len(self.streams) > 1:
            return min(requested, len(self._own_readers(0, 1)))
        ranks, readers = self.steps.share.ranks, self.streams[0].readers
        alone = gcd(ranks, readers)
        counts = range(requested, 0, -1)
        return next((n for n in counts if gcd(ranks * n, readers) == alone * n), 0)

    def reader_order(self) -> ReaderOrder:
        """Which reader, among those of all streams, makes each row from ``begun`` on."""
        readers = [stream.readers for stream in self.streams]
        if len(readers) == 1:
            return ReaderRotation(readers[0])
        return DealtReaders(self.order, readers, self.steps.share.rows_per_step, *self.begun)

    def source_of(self, reader: int) -> int:
        """The stream of a reader."""
        return bisect_right(self.first_readers, reader) - 1

    def _parts(self, worker: int, workers: int) -> Generator[StreamPart, None, None]:
        accumulation, micro_batch = self.steps.share.accumulation, self.first
        maker = self.streams[0].maker
        pool = ThreadPoolExecutor(1, "stream")
        try:
            readers, order = self._start(pool, worker, workers), self.reader_order()
            while True:
                part = StreamPart([], {})
                for number in self.steps.numbers(micro_batch):
                    reader, index = order.row(number)
                    if reader in readers:
                        row, part.states[reader] = readers[reader].row(index)
                        step = micro_batch // accumulation
                        part.rows.append((number, maker.mask(row, number, step)))
                yield part
                micro_batch += 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, worker: int, workers: int) -> dict[int, Reader]:
        """The readers of this process. The windows of those that are needed first are made
        first."""
        own, readers = self._own_readers(worker, workers), dict[int, Reader]()
        for source, (first, stop) in enumerate(pairwise(self.first_readers)):
            numbers = [reader - first for reader in own if first <= reader < stop]
            readers |= self._open(source, numbers, pool)
        order, micro_batches = self.reader_order(), map(self.steps.numbers, count(self.first))
        rows = islice(chain.from_iterable(micro_batches), 2 * len(self._own_readers(0, 1)))
        needed = [reader for reader, _ in map(order.row, rows) if reader in readers]
        for number in dict.fromkeys([*needed, *readers]):
            readers[number].start(self.states.get(number, ReaderState()))
        return readers

    def _own_readers(self, worker: int, workers: int) -> list[int]:
        """The readers that this process runs: those of its rank are shared by the workers."""
        share = self.steps.share
        # The readers of a mixture are dealt from a step's first row on, one stream's from row 0.
        first = self.steps.numbers(self.first).start if len(self.streams) == 1 else share.rank
        of_rank = [
            before + reader
            for before, stream in zip(self.first_readers, self.streams, strict=False)
            for reader in readers_of(first, share.ranks, stream.readers)
        ]
        return of_rank[worker::workers]

    def _open(
        self, source: int, numbers: Sequence[int], pool: ThreadPoolExecutor
    ) -> dict[int, Reader]:
        """The readers of a stream with these numbers in it, by their numbers among all."""
        stream, before = self.streams[source], self.first_readers[source]
        groups = stream.source.num_groups(stream.readers)
        opened: dict[int, Reader] = {}
        for number in {reader % groups for reader in numbers}:
            waiting = {
                reader: self.states.get(before + reader, ReaderState()).place
                for reader in numbers
                if reader % groups == number
            }
            each = stream.readers // groups
            group = ReaderGroup(stream.source, number, groups, each, stream.window, waiting)
            opened |= {before + reader: Reader(stream, reader, group, pool) for reader in waiting}
        return opened


class StreamLoader(TrainingLoader[MaskedBatch]):
    """The training batches of a whole run from a stream."""

    def __init__(self, batches: StreamBatches, total_steps: int, workers: Workers) -> None:
        super().__init__(total_steps * batches.steps.share.accumulation)
        self.batches = batches
        number = batches.workers(workers.number)
        if number < workers.number:
            log.info(
                "dataset.num_workers: %d, so that each runs stream readers of its own (%d over %d "
                "ranks)",
                *(number, batches.first_readers[-1], batches.steps.share.ranks),
            )
        self.workers = replace(workers, number=number, persistent=False)
        self.states: dict[int, ReaderState] = {}
        """Where the readers continue that have begun."""

        self._states_of_drawn: deque[dict[int, ReaderState]] = deque()
        """Of the micro-batches that are drawn and not handed out, the windows they are from."""

        self._order = batches.reader_order()

    def __iter__(self) -> Iterator[MaskedBatch]:
        for batch in super().__iter__():
            self.states |= self._states_of_drawn.popleft()
            yield batch

    def remaining(self) -> Iterator[MaskedBatch]:
        self.batches.states, self.batches.first = dict(self.states), self._done
        row = self.batches.steps.state(self._done)["next_row"]
        self.batches.begun = row, self._order.rows_before(row)
        self._states_of_drawn.clear()
        items = iter(build_loader(self.batches, None, self.workers))
        drawn = (self._draw(items) for _ in range(self._done, self.count))
        return with_targets_of_step(drawn, self.batches.steps.share.accumulation)

    def _draw(self, items: Iterator[StreamPart | Failure]) -> MaskedBatch:
        parts: list[StreamPart] = []
        for item in islice(items, max(1, self.workers.number)):
            if isinstance(item, Failure):
                raise ConfigError(*item.problems)
            parts.append(item)
        states = (part.states.items() for part in parts)
        self._states_of_drawn.append(dict(chain.from_iterable(states)))
        batch = self.batches.join(parts)
        return batch.pin_memory() if self.workers.pin_memory else batch

    def state_dict(self) -> dict[str, Any]:
        """Where the run is in its stream: its next row, and the windows of the readers of all
        ranks. Every rank calls this."""
        place = self.batches.steps.state(self._done)
        return {
            "place": place,
            "readers": {number: asdict(state) for number, state in self._of_all_ranks().items()},
            "key": self._key,
            "rows": self._order.rows_before(place["next_row"]),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the very next row.

        If the settings that rows are made by were changed (and that was accepted), continue at the
        start of the window that the last reader of a group is in; if the stream is another one, at
        its beginning.
        """
        state_dict = of_whole_run(state_dict)
        place, saved_key = state_dict["place"], state_dict["key"]
        readers = state_dict.get("readers", {})
        self.batches.steps, self._done = self.batches.steps.resumed(place)
        self.states = {number: ReaderState.of(state) for number, state in readers.items()}
        is_another = saved_key["source"] != self._key["source"]
        rows = None if is_another else self._rows_of_readers(state_dict)
        self.batches.begun = place["next_row"], rows
        self._order = self.batches.reader_order()
        if is_another:
            log.warning("the stream is another one than before: it starts at its beginning")
            self._renumber([[StreamPlace()] for _ in self.batches.streams])
        elif saved_key["rows"] != self._key["rows"]:
            log.warning("rows are made otherwise than before: some documents are seen again")
            begun, sources = self.states, range(len(self.batches.streams))
            self._renumber([self._last_places(source, begun) for source in sources])

    def start_after(self, state_dict: dict[str, Any]) -> None:
        """Begin the first step with the row that follows another loader's place."""
        self.load_state_dict({**state_dict, "place": {**state_dict["place"], "micro_batches": 0}})

    @property
    def _key(self) -> dict[str, str]:
        keys = [stream.key for stream in self.batches.streams]
        return {part: " ".join(key[part] for key in keys) for part in ("source", "rows")}

    def _last_places(self, source: int, begun: Mapping[int, ReaderState]) -> list[StreamPlace]:
        """For each group of a stream's readers, the start of the window of the last of them."""
        stream, first = self.batches.streams[source], self.batches.first_readers[source]
        groups = stream.source.num_groups(stream.readers)
        numbers = range(first, first + stream.readers)
        places = [begun.get(number, ReaderState()).place for number in numbers]
        return [min(places[group::groups], key=in_order) for group in range(groups)]

    def _rows_of_readers(self, state_dict: Mapping[str, Any]) -> list[int]:
        """Rows of each reader so far. Before there were any in a checkpoint, the readers of a
        mixture made the rows of each source in rotation."""
        if "rows" in state_dict:
            return list(state_dict["rows"])
        next_row = self.batches.steps.state(self._done)["next_row"]
        counts = state_dict.get("counts", self.batches.order.counts(next_row))
        if len(counts) > 1:
            log.warning(
                "the checkpoint is of an earlier version: each reader of the mixture continues "
                "with its next row, in another order than before"
            )
        rotations = [ReaderRotation(stream.readers) for stream in self.batches.streams]
        of_sources = zip(rotations, counts, strict=True)
        return [row for rotation, count in of_sources for row in rotation.rows_before(count)]

    def _renumber(self, places: Sequence[Sequence[StreamPlace]]) -> None:
        """Let the readers of each group of each stream begin at its place, with the next rows of
        the run."""
        step = self._done // self.batches.steps.share.accumulation
        first_row, bounds = self.batches.steps.first_row(step), pairwise(self.batches.first_readers)
        rows = self.batches.reader_order().rows_before(first_row)
        self.states = {
            reader: ReaderState(of_groups[(reader - first) % len(of_groups)], rows=rows[reader])
            for (first, stop), of_groups in zip(bounds, places, strict=True)
            for reader in range(first, stop)
        }

    def _of_all_ranks(self) -> dict[int, ReaderState]:
        """The windows that the readers are in. A reader that several ranks run is in several: the
        last one, which is not behind the run's next row either."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self.states
        everywhere: list[dict[int, ReaderState]] = [{}] * dist.get_world_size()
        dist.all_gather_object(everywhere, self.states)
        newest: dict[int, ReaderState] = {}
        for states in everywhere:
            for reader, state in states.items():
                if reader not in newest or state.rows > newest[reader].rows:
                    newest[reader] = state
        return newest
