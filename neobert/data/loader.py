"""The training batches of indexed data, by their number, in loader processes if there are any.

Row number ``g`` of the run is a row of the store by :class:`~neobert.data.order.Order`, in a
mixture a row of the source by :class:`~neobert.data.mixture.SourceOrder`; which numbers a
micro-batch takes is defined by :class:`~neobert.data.steps.Steps`. So a batch is a function of
(data, settings, seed, step): it depends neither on the number of workers, nor on the number of
ranks at equal rows per step, nor on how often the run was stopped.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, cycle, islice
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from neobert.batch import IGNORE, MaskedBatch
from neobert.data.mixture import ONE_SOURCE, SourceOrder
from neobert.data.order import Order
from neobert.data.processes import end_with_parent
from neobert.data.steps import Share, Steps, of_whole_run
from neobert.data.token_rows import Row, RowMaker, TokenRows

Item = TypeVar("Item")
Result = TypeVar("Result")


class SourceRows:
    """The rows of a source, in each epoch in another order.

    Documents that are cropped at random are cropped again in each epoch, by a plan of its own.
    """

    def __init__(self, epochs: Sequence[TokenRows], order: Order) -> None:
        """``epochs``: the rows of each epoch that the run reaches, or of one for all; ``order``:
        that of the first."""
        self.epochs, self.order = epochs, order
        later = (replace(order, num_rows=rows.plan.num_rows) for rows in epochs[1:])
        self._orders = [order, *later]
        counts = (order.num_rows for order in self._orders[:-1])
        self._first_rows = list(accumulate(counts, initial=0))

    def row(self, number: int) -> Row:
        """The row with this number among those that the run takes of the source."""
        epoch = bisect_right(self._first_rows, number) - 1
        order, place = self._orders[epoch], number - self._first_rows[epoch]
        return self.epochs[epoch].lay_out(order.row(epoch * order.num_rows + place))


class RunRows:
    """The rows of a run by their number, before masking: of each source in its own order and with
    its own epochs."""

    def __init__(self, sources: Sequence[SourceRows], order: SourceOrder = ONE_SOURCE) -> None:
        self.sources, self.order = sources, order
        self.num_rows = sum(source.order.num_rows for source in sources)
        """Rows of the data, in an epoch."""

        self.rows_per_epoch = sum(source.order.rows_per_epoch for source in sources)
        """Row numbers of an epoch, empty ones included."""

    def row(self, number: int) -> Row:
        """The row with this number in the run."""
        source, ordinal = self.order.row(number)
        return self.sources[source].row(ordinal)


class MicroBatches(Dataset[MaskedBatch]):
    """Micro-batches of a run by their number; what loader processes compute."""

    def __init__(self, rows: RunRows, maker: RowMaker, steps: Steps) -> None:
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


class TrainingLoader(ABC, Generic[Item]):
    """The training batches of a whole run, for Lightning one epoch; it can continue in the middle.

    Its state is the number of micro-batches handed out.
    """

    def __init__(self, count: int) -> None:
        """``count`` micro-batches of this rank."""
        self.count = count
        self._done = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Item]:
        for batch in self.remaining():
            self._done += 1
            yield batch

    @abstractmethod
    def remaining(self) -> Iterator[Item]:
        """The batches that are not handed out yet."""

    def state_dict(self) -> dict[str, Any]:
        """Where the run is in its data."""
        return {"micro_batches": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue there."""
        self._done = state_dict["micro_batches"]


class CountedLoader(TrainingLoader[Item]):
    """Micro-batches of which each is a function of its number."""

    def __init__(self, batches: Dataset[Item], count: int, workers: Workers) -> None:
        super().__init__(count)
        self.batches, self.workers = batches, workers

    def remaining(self) -> Iterator[Item]:
        return iter(build_loader(self.batches, range(self._done, self.count), self.workers))


class StepLoader(CountedLoader[MaskedBatch]):
    """The training batches of indexed data. In a checkpoint its place is one between two steps."""

    batches: MicroBatches

    def __init__(self, batches: MicroBatches, total_steps: int, workers: Workers) -> None:
        super().__init__(batches, total_steps * batches.steps.share.accumulation, workers)

    def remaining(self) -> Iterator[MaskedBatch]:
        return with_targets_of_step(super().remaining(), self.batches.steps.share.accumulation)

    def state_dict(self) -> dict[str, Any]:
        """Where the run is in its data."""
        rows = self.batches.rows
        epoch = {"num_rows": rows.num_rows, "rows_per_epoch": rows.rows_per_epoch}
        return {**self.batches.steps.state(self._done), **epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = self._renumbered(of_whole_run(state_dict))
        self.batches.steps, self._done = self.batches.steps.resumed(state)

    def _renumbered(self, state: dict[str, int]) -> dict[str, int]:
        """With another batch, epochs that are filled up have another number of empty rows."""
        rows = self.batches.rows
        if state["num_rows"] != rows.num_rows:
            return state  # rows are made otherwise: the same place in a new order
        epoch, place = divmod(state["next_row"], state["rows_per_epoch"])
        first = epoch * rows.rows_per_epoch
        return {**state, "next_row": first + min(place, rows.num_rows)}


class RepeatedBatches(TrainingLoader[Item]):
    """The first batches of another loader over and over, as many in all as that one has."""

    def __init__(self, loader: TrainingLoader[Item], first: int) -> None:
        """``first``: how many micro-batches are repeated."""
        super().__init__(len(loader))
        self.loader, self.first = loader, first

    def remaining(self) -> Iterator[Item]:
        batches = list(islice(self.loader, self.first))
        return islice(cycle(batches), self._done, self.count)


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
    dataset: Dataset[Item], numbers: Sequence[int] | None, workers: Workers
) -> "DataLoader[Item]":
    """A loader of the items ``numbers``, in this order, however many processes compute them;
    ``None`` of a stream, whose items have none."""
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


def with_targets_of_step(
    batches: Iterator[MaskedBatch], accumulation: int
) -> Iterator[MaskedBatch]:
    """Each micro-batch with the targets of its optimizer step, counted over all ranks.

    The micro-batches of a step are drawn together.
    """
    steps = iter(lambda: list(islice(batches, accumulation)), [])
    for step, (total,) in one_ahead(
        steps, lambda drawn: sum_over_ranks([sum(batch.num_targets for batch in drawn)])
    ):
        for batch in step:
            yield replace(batch, num_targets_in_step=total)


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


@lru_cache(maxsize=1)
def _host_group() -> dist.ProcessGroup | None:
    """All ranks, connected through their hosts: a sum over GPUs would wait for their queues."""
    return None if "gloo" in dist.get_backend() else dist.new_group(backend="gloo")
