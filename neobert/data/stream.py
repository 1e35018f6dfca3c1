"""Training batches from a stream that has no index: the same for every number of processes.

A fixed number of readers (``dataset.stream_readers``) each own a part of the stream, read it window
by window, and make rows of it: the documents of a window are tokenised, packed and put into an
order that depends on (seed, reader, window) alone. The rows of the run are dealt from the readers
in rotation: row ``g`` is the next row of reader ``g mod readers``. MosaicML's Streaming calls such
readers canonical nodes; it deals samples, not packed rows.

Row ``g`` is made by rank ``g mod ranks``, there by worker ``(g // ranks) mod workers``. Where the
number of processes divides the number of readers, each runs readers that no other runs, so every
document is read, tokenised and packed once. The place of a run is the number of its next row, and
for each reader the cursor at the start of its window: a resumed run reads one window per reader
again, under any number of ranks and workers, and continues with the very next row.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import gcd

import torch.distributed as dist
from torch.utils.data import IterableDataset, get_worker_info

from neobert.batch import MaskedBatch
from neobert.config.checks import ConfigError
from neobert.console import get_logger
from neobert.data.loader import Workers, build_stream_loader, one_ahead, targets_over_ranks
from neobert.data.steps import Steps
from neobert.data.stream_readers import Reader, ReaderState, StreamRows
from neobert.data.stream_source import ReaderGroup, StreamPlace, in_order, readers_of
from neobert.data.token_rows import MaskedRow

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

    def __init__(self, stream: StreamRows, steps: Steps) -> None:
        self.stream, self.steps = stream, steps
        self.heads = stream.source.heads()
        self.states: dict[int, ReaderState] = {}
        """Where the readers continue; those that are missing have not begun."""

        self.first = 0

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
        return self.stream.maker.batch([row for _, row in rows])

    def workers(self, requested: int) -> int:
        """Loader processes, at most ``requested``, such that none runs a reader of another."""
        ranks, readers = self.steps.share.ranks, self.stream.readers
        alone = gcd(ranks, readers)
        counts = range(requested, 0, -1)
        return next((n for n in counts if gcd(ranks * n, readers) == alone * n), 0)

    def _parts(self, worker: int, workers: int) -> Iterator[StreamPart]:
        ranks, accumulation = self.steps.share.ranks, self.steps.share.accumulation
        maker, micro_batch = self.stream.maker, self.first
        pool = ThreadPoolExecutor(1, "stream")
        try:
            readers = self._start(pool, worker, workers)
            while True:
                numbers = self.steps.numbers(micro_batch)
                mine = [number for number in numbers if number // ranks % workers == worker]
                part = StreamPart([], {})
                for number in mine:
                    index, reader = divmod(number, self.stream.readers)
                    row, part.states[reader] = readers[reader].row(index)
                    step = micro_batch // accumulation
                    part.rows.append((number, maker.mask(row, number, step)))
                yield part
                micro_batch += 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, worker: int, workers: int) -> dict[int, Reader]:
        """The readers of this process, in the order in which they are needed."""
        share, count = self.steps.share, self.stream.readers
        first = self.steps.numbers(self.first).start
        process = first % share.ranks + share.ranks * worker
        mine = readers_of(process, share.ranks * workers, count)
        groups = self.stream.source.num_groups(count)
        states = {reader: self.states.get(reader, ReaderState()) for reader in mine}
        waiting: dict[int, dict[int, StreamPlace]] = {}
        for reader, state in states.items():
            waiting.setdefault(reader % groups, {})[reader // groups] = state.place
        by_number = {
            group: ReaderGroup(
                self.stream.source,
                number=group,
                groups=groups,
                readers=count // groups,
                heads=self.heads,
                window=self.stream.window,
                waiting=places,
            )
            for group, places in waiting.items()
        }
        readers = {}
        for reader in sorted(mine, key=lambda one: (one - first) % count):
            readers[reader] = Reader(self.stream, reader, by_number[reader % groups], pool)
            readers[reader].start(states[reader])
        return readers


class StreamLoader:
    """The training batches of a whole run from a stream; for Lightning one epoch."""

    def __init__(self, batches: StreamBatches, total_steps: int, workers: Workers) -> None:
        self.batches, self.total_steps = batches, total_steps
        number = batches.workers(workers.number)
        if number < workers.number:
            log.info(
                "dataset.num_workers: %d, so that each runs stream readers of its own (%d over %d "
                "ranks)",
                *(number, batches.stream.readers, batches.steps.share.ranks),
            )
        self.workers = replace(workers, number=number)
        self._states: dict[int, ReaderState] = {}
        self._done = 0

    def __len__(self) -> int:
        return self.total_steps * self.batches.steps.share.accumulation

    def __iter__(self) -> Iterator[MaskedBatch]:
        self.batches.states, self.batches.first = dict(self._states), self._done
        accumulation = self.batches.steps.share.accumulation
        items = iter(build_stream_loader(self.batches, self.workers))
        left = range((len(self) - self._done) // accumulation)
        steps = ([self._draw(items) for _ in range(accumulation)] for _ in left)
        for step, (total,) in one_ahead(
            steps, lambda drawn: targets_over_ranks([batch for batch, _ in drawn])
        ):
            for batch, parts in step:
                self._done += 1
                for part in parts:
                    self._states |= part.states
                yield replace(batch, num_targets_in_step=total)

    def _draw(self, items: Iterator[StreamPart | Failure]) -> tuple[MaskedBatch, list[StreamPart]]:
        parts: list[StreamPart] = []
        for item in (next(items) for _ in range(max(1, self.workers.number))):
            if isinstance(item, Failure):
                raise ConfigError(*item.problems)
            parts.append(item)
        batch = self.batches.join(parts)
        return (batch.pin_memory() if self.workers.pin_memory else batch), parts

    def state_dict(self) -> dict[str, object]:
        """Where the run is in its stream: its next row, and the windows of the readers of all
        ranks. Every rank calls this."""
        return {
            "place": self.batches.steps.state(self._done),
            "readers": {number: asdict(state) for number, state in self._of_all_ranks().items()},
            "key": self.batches.stream.key,
        }

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Continue with the very next row.

        If the settings that rows are made by were changed (and that was accepted), continue at the
        start of the window that the last reader of a group is in; if the stream is another one, at
        its beginning.
        """
        place, saved_key = state_dict["place"], state_dict["key"]
        readers = state_dict.get("readers", {})
        assert isinstance(place, dict)
        assert isinstance(saved_key, dict)
        assert isinstance(readers, dict)
        self.batches.steps, self._done = self.batches.steps.resumed(place)
        self._states = {number: ReaderState.of(state) for number, state in readers.items()}
        key = self.batches.stream.key
        if saved_key["source"] != key["source"]:
            log.warning("the stream is another one than before: it starts at its beginning")
            self._renumber([StreamPlace()])
        elif saved_key["rows"] != key["rows"]:
            log.warning("rows are made otherwise than before: some documents are seen again")
            stream, begun = self.batches.stream, self._states
            groups = stream.source.num_groups(stream.readers)
            places = [begun.get(one, ReaderState()).place for one in range(stream.readers)]
            self._renumber([min(places[group::groups], key=in_order) for group in range(groups)])

    def start_after(self, state_dict: dict[str, object]) -> None:
        """Begin the first step with the row that follows another loader's place."""
        place = state_dict["place"]
        assert isinstance(place, dict)
        self.load_state_dict({**state_dict, "place": {**place, "micro_batches": 0}})

    def _renumber(self, places: Sequence[StreamPlace]) -> None:
        """Let the readers of each group begin at its place, with the next rows of the run."""
        step = self._done // self.batches.steps.share.accumulation
        first, count = self.batches.steps.first_row(step), self.batches.stream.readers
        self._states = {
            reader: ReaderState(places[reader % len(places)], rows=-(-(first - reader) // count))
            for reader in range(count)
        }

    def _of_all_ranks(self) -> dict[int, ReaderState]:
        """The windows that the readers are in. A reader that several ranks run is in several: the
        last one, which is not behind the run's next row either."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self._states
        everywhere: list[dict[int, ReaderState]] = [{}] * dist.get_world_size()
        dist.all_gather_object(everywhere, self._states)
        found: dict[int, ReaderState] = {}
        for states in everywhere:
            for reader, state in states.items():
                if reader not in found or state.rows > found[reader].rows:
                    found[reader] = state
        return found
