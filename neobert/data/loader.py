"""The training batches of indexed data, by their number, in loader processes if there are any.

Row number ``g`` of the run is a row of the store by :class:`~neobert.data.order.Order`, in a
mixture a row of the source by :class:`~neobert.data.mixture.SourceOrder`; which numbers a
micro-batch takes is defined by :class:`~neobert.data.steps.Steps`. So a batch is a function of
(data, settings, seed, step): it depends neither on the number of workers, nor on the number of
ranks at equal rows per step, nor on how often the run was stopped.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, islice
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, IterableDataset

from neobert.batch import IGNORE, MaskedBatch
from neobert.data.mixture import SourceOrder
from neobert.data.order import Order
from neobert.data.processes import end_with_parent
from neobert.data.steps import Share, Steps, of_whole_run
from neobert.data.token_rows import Row, RowMaker, TokenRows

Item = TypeVar("Item")
Batch_co = TypeVar("Batch_co", covariant=True)
Result = TypeVar("Result")


@runtime_checkable
class RowSequence(Protocol):
    """The rows of a run by their number, before masking."""

    @property
    def num_rows(self) -> int:
        """Rows of the data, in an epoch."""

    @property
    def rows_per_epoch(self) -> int:
        """Row numbers of an epoch, empty ones included."""

    def row(self, number: int) -> Row:
        """The row with this number in the run."""


@dataclass(frozen=True, slots=True)
class OrderedRows:
    """The rows of one plan in every epoch, each time in another order."""

    rows: TokenRows
    order: Order

    @property
    def num_rows(self) -> int:
        return self.order.num_rows

    @property
    def rows_per_epoch(self) -> int:
        return self.order.rows_per_epoch

    def row(self, number: int) -> Row:
        """The row with this number in the run."""
        return self.rows.lay_out(self.order.row(number))


class CroppedRows:
    """Rows whose documents are cropped again in each epoch, by a plan of its own."""

    def __init__(self, epochs: Sequence[TokenRows], seed: int, rows_per_step: int) -> None:
        """``epochs``: the rows of each epoch that the run reaches."""
        counts = [rows.plan.num_rows for rows in epochs]
        self.epochs, self.seed, self.rows_per_step = epochs, seed, rows_per_step
        self.num_rows = self.rows_per_epoch = counts[0]
        self._ends = list(accumulate(counts))

    def row(self, number: int) -> Row:
        """The row with this number in the run."""
        epoch = bisect_right(self._ends, number)
        rows = self.epochs[epoch]
        count = rows.plan.num_rows
        place = number - self._ends[epoch] + count
        order = Order(count, self.seed, self.rows_per_step)
        return rows.lay_out(order.row(epoch * count + place))


class MixedRows:
    """The rows of several sources, each in its own order and with its own epochs."""

    def __init__(self, sources: Sequence[RowSequence], order: SourceOrder) -> None:
        self.sources, self.order = sources, order
        self.num_rows = self.rows_per_epoch = sum(rows.num_rows for rows in sources)

    def row(self, number: int) -> Row:
        """The row with this number in the run."""
        source, ordinal = self.order.row(number)
        return self.sources[source].row(ordinal)


class MicroBatches(Dataset[MaskedBatch]):
    """Micro-batches of a run by their number; what loader processes compute."""

    def __init__(self, rows: RowSequence, maker: RowMaker, steps: Steps) -> None:
        self.rows, self.maker, self.steps = rows, maker, steps

    def __getitem__(self, number: int) -> MaskedBatch:
        step, maker = number // self.steps.share.accumulation, self.maker
        numbers = self.steps.numbers(number)
        return maker.batch([maker.mask(self.rows.row(row), row, step) for row in numbers])


@dataclass(frozen=True, slots=True)
class Workers:
    """Loader processes."""

    number: int = 0
    prefetch_factor: int | None = None
    persistent: bool = True
    pin_memory: bool = False


class StepLoader:
    """The training batches of a whole run, for Lightning one epoch.

    Draws the micro-batches of an optimizer step together, counts their targets over all ranks, and
    gives each the total. Its state is the number of micro-batches handed out, always whole steps in
    a checkpoint.
    """

    def __init__(self, batches: MicroBatches, total_steps: int, workers: Workers) -> None:
        self.batches, self.workers = batches, workers
        self.total_steps = total_steps
        self._done = 0

    def __len__(self) -> int:
        return self.total_steps * self.batches.steps.share.accumulation

    def __iter__(self) -> Iterator[MaskedBatch]:
        accumulation = self.batches.steps.share.accumulation
        loader = build_loader(self.batches, range(self._done, len(self)), self.workers)
        batches = iter(loader)
        steps = iter(lambda: list(islice(batches, accumulation)), [])
        for step, (total,) in one_ahead(steps, targets_over_ranks):
            for batch in step:
                self._done += 1
                yield replace(batch, num_targets_in_step=total)

    def state_dict(self) -> dict[str, int]:
        """Where the run is in its data."""
        rows = self.batches.rows
        epoch = {"num_rows": rows.num_rows, "rows_per_epoch": rows.rows_per_epoch}
        return {**self.batches.steps.state(self._done), **epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        state = self._renumbered(of_whole_run(state_dict))
        self.batches.steps, self._done = self.batches.steps.resumed(state)

    def start_after(self, state_dict: dict[str, int]) -> None:
        """Begin with the row that follows another loader's place."""
        self.load_state_dict({**state_dict, "micro_batches": 0})

    def _renumbered(self, state: dict[str, int]) -> dict[str, int]:
        """With another batch, epochs that are filled up have another number of empty rows."""
        rows = self.batches.rows
        if state["num_rows"] != rows.num_rows:
            return state  # rows are made otherwise: the same place in a new order
        epoch, place = divmod(state["next_row"], state["rows_per_epoch"])
        first = epoch * rows.rows_per_epoch
        return {**state, "next_row": first + min(place, rows.num_rows)}


class CountedLoader(Generic[Item]):
    """The training batches of a whole run, for Lightning one epoch.

    Its state is the number of micro-batches handed out: each is a function of its number.
    """

    def __init__(self, batches: Dataset[Item], count: int, workers: Workers) -> None:
        """``count`` micro-batches of this rank."""
        self.batches, self.count, self.workers = batches, count, workers
        self._done = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Item]:
        batches = build_loader(self.batches, range(self._done, self.count), self.workers)
        for batch in self.completed(batches):
            self._done += 1
            yield batch

    def completed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches with what they need to know of the other ranks'."""
        return iter(batches)

    def state_dict(self) -> dict[str, int]:
        """Where the run is in its data."""
        return {"micro_batches": self._done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._done = state_dict["micro_batches"]


@runtime_checkable
class TrainingLoader(Protocol[Batch_co]):
    """The training batches of a run, which can continue in the middle."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch_co]: ...

    def state_dict(self) -> dict[str, Any]:
        """Where the run is in its data."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue there."""


class RepeatedBatches(Generic[Item]):
    """The first batches of another loader over and over, as many in all as that one has."""

    def __init__(self, loader: TrainingLoader[Item], first: int) -> None:
        """``first``: how many micro-batches are repeated."""
        self.loader, self.first = loader, first
        self._done = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Item]:
        batches = list(islice(self.loader, self.first))
        for number in range(self._done, len(self)):
            self._done += 1
            yield batches[number % len(batches)]

    def state_dict(self) -> dict[str, int]:
        """Where the run is in its data."""
        return {"micro_batches": self._done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._done = state_dict["micro_batches"]


class EvaluationBatches(Dataset[Item]):
    """The rows of an evaluation set in their order, ``size`` in a batch, dealt to the ranks.

    Ranks meet in every batch under some strategies, so each gets as many. Numbers beyond the last
    are batches that count for nothing.
    """

    def __init__(self, num_rows: int, size: int, budget: int | None = None) -> None:
        """``budget``: batches at most, over all ranks together (``trainer.eval_max_batches``)."""
        whole = math.ceil(num_rows / size)
        self.num_rows, self.size = num_rows, size
        self.count = whole if budget is None else min(budget, whole)

    def __len__(self) -> int:
        return self.count

    def rows(self, number: int) -> range:
        """Row numbers of a batch; none beyond the last."""
        if number >= self.count:
            return range(0)
        return range(number * self.size, min((number + 1) * self.size, self.num_rows))

    def numbers(self, share: Share) -> range:
        """The batches of a rank."""
        last = math.ceil(self.count / share.ranks) * share.ranks
        return range(share.rank, last, share.ranks)


class RowBatches(EvaluationBatches[MaskedBatch]):
    """The rows of the evaluation set in their order, masked under their own numbers.

    A number beyond the last gives the last batch without a target: it counts for nothing.
    """

    def __init__(self, rows: TokenRows, size: int, budget: int | None = None) -> None:
        super().__init__(rows.plan.num_rows, size, budget)
        self.token_rows = rows

    def __getitem__(self, number: int) -> MaskedBatch:
        numbers = self.rows(min(number, self.count - 1))
        batch = self.token_rows.batch(numbers, numbers)
        if number < self.count:
            return batch
        return replace(batch, labels=torch.full_like(batch.labels, IGNORE), num_targets=0)


def build_loader(
    dataset: Dataset[Item], numbers: Sequence[int], workers: Workers
) -> "DataLoader[Item]":
    """A loader of the items ``numbers``, in this order, however many processes compute them."""
    several = workers.number > 0
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=numbers,
        num_workers=workers.number,
        worker_init_fn=end_with_parent,
        prefetch_factor=workers.prefetch_factor if several else None,
        persistent_workers=workers.persistent and several,
        pin_memory=workers.pin_memory,
        generator=torch.Generator(),  # else it would draw from the generator of the training step
    )


def build_stream_loader(dataset: IterableDataset[Item], workers: Workers) -> "DataLoader[Item]":
    """A loader of a stream, read here or by one background process."""
    several = workers.number > 0
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers.number,
        worker_init_fn=end_with_parent,
        prefetch_factor=workers.prefetch_factor if several else None,
        pin_memory=workers.pin_memory,
        generator=torch.Generator(),
    )


def sum_over_ranks(counts: Sequence[int]) -> Callable[[], list[int]]:
    """Begin to add up ``counts`` over all ranks; what is returned waits for the sums.

    The hosts do that among themselves, without the device. Every rank calls this as often.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return lambda: list(counts)
    totals = torch.tensor(counts, dtype=torch.int64)
    work = dist.all_reduce(totals, group=_host_group(), async_op=True)
    assert work is not None

    def sums() -> list[int]:
        work.wait()
        summed: list[int] = totals.tolist()
        return summed

    return sums


def one_ahead(
    items: Iterable[Item], begin: Callable[[Item], Callable[[], Result]]
) -> Iterator[tuple[Item, Result]]:
    """Each item with the result of what ``begin`` began for it while the item before was used."""
    before: tuple[Item, Callable[[], Result]] | None = None
    for item in items:
        begun = item, begin(item)
        if before is not None:
            yield before[0], before[1]()
        before = begun
    if before is not None:
        yield before[0], before[1]()


def targets_over_ranks(step: Sequence[MaskedBatch]) -> Callable[[], list[int]]:
    """Begin to count the targets of an optimizer step on all ranks; one number."""
    return sum_over_ranks([sum(batch.num_targets for batch in step)])


@lru_cache(maxsize=1)
def _host_group() -> dist.ProcessGroup | None:
    """All ranks, connected through their hosts: a sum over GPUs would wait for their queues."""
    return None if "gloo" in dist.get_backend() else dist.new_group(backend="gloo")
