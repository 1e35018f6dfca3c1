"""Micro-batches by their number: a pure function of (data, settings, seed, step).

Row number ``g`` of the run is row ``permutation(seed, epoch)[g mod rows]``. With G rows in an
optimizer step, step ``k`` takes the rows ``k·G`` to ``(k+1)·G``, of which micro-batch ``j`` of rank
``r`` takes the B from ``(j·ranks + r)·B`` on. So a batch does not depend on the number of workers,
nor on the number of ranks at equal G, nor on how often the run was stopped, and the place of a run
in its data is one number.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset

from neobert.batch import IGNORE, MaskedBatch, PackedBatch
from neobert.data.encode import end_with_parent
from neobert.data.masking import Masking, mask_row
from neobert.data.packing import Packing, RowPlan
from neobert.data.store import TokenStore
from neobert.data.tokenizer import TokenizerInfo

Item = TypeVar("Item")
LaidOut = tuple[NDArray[np.int64], list[int], int]
"""Ids of a row, lengths of its documents (slack is the last), tokens of text."""

EMPTY = -1
"""Number of a row that is all padding."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a token store, laid out and masked on demand."""

    store: TokenStore
    plan: RowPlan
    tokenizer: TokenizerInfo
    masking: Masking
    packing: Packing

    def batch(self, rows: Sequence[int], keys: Sequence[int]) -> MaskedBatch:
        """The micro-batch of these rows, masked under these keys."""
        return self.batch_of(
            [(self.lay_out(row), key) for row, key in zip(rows, keys, strict=True)]
        )

    def batch_of(self, laid: Sequence[tuple[LaidOut, int]]) -> MaskedBatch:
        """The micro-batch of rows that are laid out, each with the key of its mask."""
        ids = np.concatenate([row_ids for (row_ids, _, _), _ in laid])
        lengths = [length for (_, sizes, _), _ in laid for length in sizes]
        positions, labels, offset = [], [], 0
        for (row_ids, _, text), key in laid:
            maskable = ~self.tokenizer.is_special[row_ids]
            maskable[text:] = False
            corrupted, chosen = mask_row(row_ids, maskable, self.masking, key)
            ids[offset : offset + len(row_ids)] = corrupted
            positions.append(chosen + offset)
            labels.append(row_ids[chosen])
            offset += len(row_ids)
        tokens = sum(text for (_, _, text), _ in laid)
        return self._assemble(
            ids, lengths, tokens, np.concatenate(positions), np.concatenate(labels)
        )

    def documents(self, row: int) -> list[NDArray[np.int64]]:
        """The documents of a row as ids, before masking."""
        ids, lengths, text = self.lay_out(row)
        ends = np.cumsum(lengths)
        return [
            ids[end - length : end]
            for end, length in zip(ends, lengths, strict=True)
            if end <= text
        ]

    def lay_out(self, row: int) -> LaidOut:
        """Ids of a row, lengths of its documents (slack is the last), tokens of text."""
        pieces = [] if row == EMPTY else self.plan.row(row)
        info, length = self.tokenizer, self.plan.row_length
        parts: list[NDArray[np.int64]] = []
        lengths = []
        for document, start, size in pieces:
            tokens = self.store.document(document)[start : start + size].astype(np.int64)
            opened = [] if info.start_id is None else [info.start_id]
            closed = [] if info.end_id is None else [info.end_id]
            parts.append(np.concatenate([opened, tokens, closed]).astype(np.int64))
            lengths.append(len(parts[-1]))
        text = sum(lengths)
        if self.packing.packed and text < length:
            parts.append(np.full(length - text, info.pad_token_id, dtype=np.int64))
            lengths.append(length - text)
        ids = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return ids, lengths, text

    def _assemble(
        self,
        ids: NDArray[np.int64],
        lengths: list[int],
        tokens: int,
        positions: NDArray[np.int64],
        labels: NDArray[np.int64],
    ) -> MaskedBatch:
        count = len(labels)
        if self.packing.packed:
            rows = len(ids) // self.plan.row_length
            filler = rows * self.masking.most_targets(self.plan.row_length) - count
            positions = np.concatenate([positions, np.zeros(filler, np.int64)])
            labels = np.concatenate([labels, np.full(filler, IGNORE, np.int64)])
        elif slack := -len(ids) % self.packing.multiple:
            ids = np.concatenate([ids, np.full(slack, self.tokenizer.pad_token_id)])
            lengths = [*lengths, slack]
        sizes = np.array(lengths, dtype=np.int64)
        ends = np.cumsum(sizes)
        inputs = PackedBatch(
            input_ids=torch.from_numpy(ids),
            position_ids=torch.from_numpy(np.arange(len(ids)) - np.repeat(ends - sizes, sizes)),
            cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
            max_seqlen=self.plan.row_length if self.packing.packed else int(sizes.max(initial=0)),
            num_tokens=tokens,
            row_length=self.plan.row_length if self.packing.packed else None,
        )
        return MaskedBatch(inputs, torch.from_numpy(positions), torch.from_numpy(labels), count)


@dataclass(frozen=True, slots=True)
class Order:
    """The order in which a run goes through its rows."""

    num_rows: int
    seed: int
    rows_per_step: int
    whole_steps: bool = True
    """Steps run on into the next epoch (true), or the last step of an epoch is filled up with empty
    rows (false)."""

    @property
    def rows_per_epoch(self) -> int:
        """Row numbers of an epoch, empty ones included."""
        if self.whole_steps:
            return self.num_rows
        return -(-self.num_rows // self.rows_per_step) * self.rows_per_step

    def row(self, number: int) -> int:
        """The row with this number in the run; ``EMPTY`` where an epoch is filled up."""
        epoch, place = divmod(number, self.rows_per_epoch)
        if place >= self.num_rows:
            return EMPTY
        return int(permutation(self.num_rows, self.seed, epoch)[place])


@lru_cache(maxsize=2)
def permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Order of the rows in an epoch."""
    key = np.random.SeedSequence([seed, epoch])
    return np.random.Generator(np.random.PCG64DXSM(key)).permutation(size)


@dataclass(frozen=True, slots=True)
class Share:
    """Which rows of a step are a rank's."""

    batch_size: int
    accumulation: int
    rank: int = 0
    ranks: int = 1

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.ranks

    def numbers(self, micro_batch: int) -> range:
        """Row numbers of this rank's micro-batch."""
        step, part = divmod(micro_batch, self.accumulation)
        first = step * self.rows_per_step + (part * self.ranks + self.rank) * self.batch_size
        return range(first, first + self.batch_size)


@dataclass(frozen=True, slots=True)
class Steps:
    """Which row numbers of the run a rank's micro-batches take."""

    share: Share
    skipped: tuple[range, ...] = ()
    """Steps of data that are left out: all later ones move up (``dataset.skip_steps``)."""

    offset: int = 0
    """Added to every row number: other than 0 after a resume with another batch size."""

    def numbers(self, micro_batch: int) -> range:
        """Row numbers of this rank's micro-batch."""
        accumulation = self.share.accumulation
        step, part = divmod(micro_batch, accumulation)
        numbers = self.share.numbers(self.data_step(step) * accumulation + part)
        return range(numbers.start + self.offset, numbers.stop + self.offset)

    def first_row(self, step: int) -> int:
        """The first row number of a step, over all ranks."""
        return self.offset + self.data_step(step) * self.share.rows_per_step

    def data_step(self, step: int) -> int:
        """The step whose data ``step`` gets once the skipped ones are left out."""
        for span in sorted(self.skipped, key=lambda one: one.start):
            if step >= span.start:
                step += len(span)
        return step

    def state(self, micro_batches: int) -> dict[str, int]:
        """The place after so many micro-batches, whole steps."""
        return {
            "micro_batches": micro_batches,
            "accumulation": self.share.accumulation,
            "next_row": self._row_after(micro_batches // self.share.accumulation),
        }

    def resumed(self, state: Mapping[str, int]) -> tuple["Steps", int]:
        """Go on from ``state``, with its very next row: the steps, and micro-batches done.

        Spans that are skipped move what lies ahead; what lies behind is as it was.
        """
        done = state["micro_batches"] // state["accumulation"]
        offset = self.offset + state["next_row"] - self._row_after(done)
        return replace(self, offset=offset), done * self.share.accumulation

    def _row_after(self, done: int) -> int:
        """The row number after those of the first ``done`` steps; a span may be skipped there."""
        last = self.data_step(done - 1)
        return self.offset + (last + 1) * self.share.rows_per_step


class MicroBatches(Dataset[MaskedBatch]):
    """Micro-batches of a run by their number; what loader processes compute."""

    def __init__(self, rows: Rows, order: Order, steps: Steps) -> None:
        self.rows, self.order, self.steps = rows, order, steps

    def __getitem__(self, number: int) -> MaskedBatch:
        numbers = self.steps.numbers(number)
        return self.rows.batch([self.order.row(one) for one in numbers], list(numbers))


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
        waiting: list[MaskedBatch] = []
        for batch in loader:
            waiting.append(batch)
            if len(waiting) == accumulation:
                total = over_ranks(sum(one.num_targets for one in waiting))
                for one in waiting:
                    self._done += 1
                    yield replace(one, num_targets_in_step=total)
                waiting = []

    def state_dict(self) -> dict[str, int]:
        """Where the run is in its data."""
        order = self.batches.order
        epoch = {"num_rows": order.num_rows, "rows_per_epoch": order.rows_per_epoch}
        return {**self.batches.steps.state(self._done), **epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        state = self._renumbered(state_dict)
        self.batches.steps, self._done = self.batches.steps.resumed(state)

    def _renumbered(self, state: dict[str, int]) -> dict[str, int]:
        """With another batch, epochs that are filled up have another number of empty rows."""
        order = self.batches.order
        if state["num_rows"] != order.num_rows:
            return state  # rows are made otherwise: the same place in a new order
        epoch, place = divmod(state["next_row"], state["rows_per_epoch"])
        first = epoch * order.rows_per_epoch
        return {**state, "next_row": first + min(place, order.num_rows)}


def build_loader(
    dataset: Dataset[MaskedBatch], numbers: Sequence[int], workers: Workers
) -> "DataLoader[MaskedBatch]":
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


def over_ranks(count: int) -> int:
    """The sum of ``count`` over all ranks."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return count
    total = torch.tensor(count, dtype=torch.int64)
    if dist.get_backend() == "nccl":
        total = total.cuda()
    dist.all_reduce(total)
    return int(total)
