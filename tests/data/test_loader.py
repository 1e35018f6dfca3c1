"""Level one of the promise: a batch is a function of data, settings, seed and step alone."""

import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from neobert.batch import IGNORE, MaskedBatch
from neobert.data.curriculum import MaskRate
from neobert.data.loader import MicroBatches, RunRows, SourceRows, StepLoader, Workers, build_loader
from neobert.data.masking import Masking
from neobert.data.order import BLOCK, EMPTY, GROUP, Order
from neobert.data.packing import Packing
from neobert.data.steps import Share, Steps
from neobert.data.token_rows import RowMaker, TokenRows
from neobert.data.token_store import TokenStore
from neobert.data.tokenizer import TokenizerInfo
from neobert.training.callbacks.batch_digest import batch_digest

TOTAL_STEPS = 8


@pytest.fixture
def rows(info: TokenizerInfo, texts: list[str]) -> TokenRows:
    return make_rows(info, texts)


def make_rows(info: TokenizerInfo, texts: list[str], **changes: object) -> TokenRows:
    store = TokenStore.in_memory([info.text.encode(texts)])
    packing = replace(Packing(32, 32, info.wrapping, packed=True, truncate=False), **changes)
    masking = Masking(MaskRate.constant(0.2), False, info.mask_token_id, info.random_ids, seed=3)
    maker = RowMaker(info, masking, packing)
    return TokenRows(store, packing.plan(store.offsets), maker)


def loader(rows: TokenRows, share: Share, workers: int = 0, **steps: object) -> StepLoader:
    order = Order(rows.plan.num_rows, 3, share.rows_per_step)
    batches = MicroBatches(RunRows([SourceRows([rows], order)]), rows.maker, Steps(share, **steps))
    return StepLoader(batches, TOTAL_STEPS, Workers(workers))


def texts_of(batches: list[MaskedBatch]) -> list[list[int]]:
    """The rows of batches, masks included, as lists of ids."""
    return [row for batch in batches for row in batch.inputs.input_ids.view(-1, 32).tolist()]


def step_rows(loaders: list[StepLoader], step: int, accumulation: int) -> list[list[int]]:
    """The rows of a step over all ranks, in the order of their numbers."""
    found: dict[int, list[int]] = {}
    for one in loaders:
        for number in range(step * accumulation, (step + 1) * accumulation):
            numbers = one.batches.steps.numbers(number)
            found |= zip(numbers, texts_of([one.batches[number]]), strict=True)
    return [found[number] for number in sorted(found)]


READER = """
import multiprocessing
import time

import torch
from torch.utils.data import TensorDataset

from neobert.data.loader import Workers, build_loader

if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    batches = iter(build_loader(TensorDataset(torch.arange(4)), range(4), Workers(1)))
    next(batches)
    print(batches._workers[0].pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_loader_process_ends_when_its_run_is_killed(tmp_path: Path, method: str) -> None:
    (tmp_path / "reader.py").write_text(READER.format(method=method))
    command = [sys.executable, str(tmp_path / "reader.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        run.kill()
    limit = time.monotonic() + 30
    while lives(worker) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not lives(worker)


def lives(process: int) -> bool:
    """Whether it is there; one that waits for its parent to look is not."""
    status = Path(f"/proc/{process}/status")
    return status.exists() and "zombie" not in status.read_text()


@pytest.mark.proves("dataset.num_workers")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_does_not_depend_on_the_number_of_workers(rows: TokenRows, workers: int) -> None:
    here = [batch_digest(batch) for batch in loader(rows, Share(2, 2))]
    assert [batch_digest(batch) for batch in loader(rows, Share(2, 2), workers)] == here


@pytest.mark.parametrize(("ranks", "accumulation", "size"), [(1, 4, 2), (2, 2, 2), (4, 2, 1)])
def test_a_step_does_not_depend_on_how_its_rows_are_shared_out(
    rows: TokenRows, ranks: int, accumulation: int, size: int
) -> None:
    alone = loader(rows, Share(8, 1))
    shared = [loader(rows, Share(size, accumulation, rank, ranks)) for rank in range(ranks)]
    for step in range(TOTAL_STEPS):
        assert step_rows(shared, step, accumulation) == step_rows([alone], step, 1)


@pytest.mark.parametrize("stops", [(3,), (1, 2), (0, 5, 6)])
def test_a_stopped_run_goes_on_with_the_very_next_batch(
    rows: TokenRows, stops: tuple[int, ...]
) -> None:
    undisturbed = [batch_digest(batch) for batch in loader(rows, Share(2, 2))]
    found: list[str] = []
    state = None
    for stop in (*stops, TOTAL_STEPS):
        here = loader(rows, Share(2, 2))
        if state is not None:
            here.load_state_dict(state)
        wanted = 2 * stop - len(found)
        found += [batch_digest(batch) for batch in islice(iter(here), wanted)]
        state = here.state_dict()
    assert found == undisturbed


def test_every_row_comes_once_in_an_epoch_in_an_order_of_its_own(rows: TokenRows) -> None:
    count = rows.plan.num_rows
    order = Order(count, 3, rows_per_step=8)
    epochs = [[order.row(epoch * count + place) for place in range(count)] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(count))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("count", [GROUP, 2 * GROUP + 2 * BLOCK + 5, BLOCK + 1])
def test_every_row_comes_once_also_where_an_order_has_many_groups(count: int) -> None:
    order = Order(count, 7, rows_per_step=8)
    rows = np.array([order.row(count + place) for place in range(count)])  # of the second epoch
    assert np.array_equal(np.sort(rows), np.arange(count))


def test_the_order_of_a_billion_rows_takes_little_memory_and_time() -> None:
    order = Order(10**9, 3, rows_per_step=8)
    tracemalloc.start()
    started = time.process_time()
    rows = [order.row(number) for number in range(5 * 10**8, 5 * 10**8 + 5000)]
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 40e6  # 8 bytes for each of a million blocks; all rows would take 8 GB
    assert len(set(rows)) == len(rows)
    assert len({row // BLOCK for row in rows}) > 60  # a step's rows come from many blocks


@pytest.mark.proves("trainer.enforce_full_packed_batches")
def test_an_epochs_last_step_is_filled_from_the_next_or_with_empty_rows(rows: TokenRows) -> None:
    full = Order(num_rows=5, seed=0, rows_per_step=4)
    assert EMPTY not in [full.row(number) for number in range(40)]
    partial = Order(num_rows=5, seed=0, rows_per_step=4, whole_steps=False)
    places = [partial.row(number) == EMPTY for number in range(16)]
    assert places == [False] * 5 + [True] * 3 + [False] * 5 + [True] * 3
    batch = rows.batch([0, EMPTY], [0, 1])
    assert batch.inputs.input_ids.shape == (64,)
    assert batch.inputs.num_tokens <= 32


@pytest.mark.proves("dataset.skip_steps")
def test_the_data_of_a_skipped_span_is_left_out_and_all_else_moves_up(rows: TokenRows) -> None:
    plain = [batch_digest(batch) for batch in loader(rows, Share(2, 1))]
    skipped = [batch_digest(batch) for batch in loader(rows, Share(2, 1), skipped=(range(2, 5),))]
    assert skipped[:2] == plain[:2]
    assert skipped[2:5] == plain[5:8]


@pytest.mark.parametrize(("size", "accumulation"), [(4, 2), (1, 3), (2, 1)])
def test_after_a_change_of_batch_the_very_next_row_follows(
    rows: TokenRows, size: int, accumulation: int
) -> None:
    before = loader(rows, Share(2, 2))
    seen = texts_of(list(islice(iter(before), 6)))
    after = loader(rows, Share(size, accumulation))
    after.load_state_dict(before.state_dict())
    seen += texts_of(list(islice(iter(after), accumulation)))
    undisturbed = texts_of(list(loader(rows, Share(2, 2))))
    assert seen == undisturbed[: len(seen)]


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_after_a_change_of_batch_rows_follow_also_where_epochs_are_filled_up(
    rows: TokenRows, stop: int
) -> None:
    def filled_up(size: int) -> StepLoader:
        order = Order(5, 3, size, whole_steps=False)
        ordered = RunRows([SourceRows([rows], order)])
        batches = MicroBatches(ordered, rows.maker, Steps(Share(size, 1)))
        return StepLoader(batches, 9, Workers())

    def drawn(one: StepLoader, steps: range) -> list[int]:
        numbers = [number for step in steps for number in one.batches.steps.numbers(step)]
        found = [one.batches.rows.sources[0].order.row(number) for number in numbers]
        return [row for row in found if row != EMPTY]

    before, after = filled_up(4), filled_up(2)  # epochs of two steps and of three
    list(islice(iter(before), stop))
    after.load_state_dict(before.state_dict())
    seen = drawn(before, range(stop)) + drawn(after, range(stop, stop + 4))
    undisturbed = drawn(before, range(9))
    assert seen == undisturbed[: len(seen)]


def test_targets_are_counted_over_the_whole_step(rows: TokenRows) -> None:
    batches = list(loader(rows, Share(2, 2)))
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        total = first.num_targets + second.num_targets
        assert first.num_targets_in_step == second.num_targets_in_step == total


def test_packed_batches_have_one_shape_and_one_number_of_target_places(rows: TokenRows) -> None:
    batches = list(loader(rows, Share(4, 1)))
    shapes = {(tuple(b.inputs.input_ids.shape), tuple(b.positions.shape)) for b in batches}
    assert shapes == {((128,), (4 * 7,))}  # 7 = ceil(0.2 · 32)
    assert all(int((b.labels != IGNORE).sum()) == b.num_targets for b in batches)


@pytest.mark.proves("datacollator.pad_to_multiple_of")
def test_the_token_axis_of_an_unpacked_batch_is_padded_to_a_multiple(
    info: TokenizerInfo, texts: list[str]
) -> None:
    plain = make_rows(info, texts, packed=False)
    padded = make_rows(info, texts, packed=False, multiple=16)
    for row in range(0, 12, 3):
        numbers = range(row, row + 3)
        before, after = plain.batch(numbers, numbers).inputs, padded.batch(numbers, numbers).inputs
        size = len(before.input_ids)
        assert len(after.input_ids) == -(-size // 16) * 16
        assert torch.equal(after.input_ids[:size], before.input_ids)
        assert (after.input_ids[size:] == info.pad_token_id).all()
        assert after.num_tokens == before.num_tokens


def test_documents_are_opened_closed_and_counted_from_zero(info: TokenizerInfo) -> None:
    rows = make_rows(info, ["river oil", "coal"])
    batch = rows.batch([0], [0])
    bounds = batch.inputs.cu_seqlens.tolist()
    row = rows.lay_out(0)
    ends = np.cumsum(row.lengths)
    documents = [row.ids[end - length : end] for end, length in zip(ends, row.lengths, strict=True)]
    documents = [document for document, end in zip(documents, ends, strict=True) if end <= row.text]
    assert documents
    for document in documents:
        assert document[0] == info.text.start_id
        assert document[-1] == info.text.end_id
    for first, last in pairwise(bounds):
        assert batch.inputs.position_ids[first:last].tolist() == list(range(last - first))


def test_labels_are_the_words_that_were_there(rows: TokenRows) -> None:
    batch = rows.batch([0, 1], [0, 1])
    original = np.concatenate([rows.lay_out(row).ids for row in (0, 1)])
    used = batch.labels != IGNORE
    assert batch.labels[used].tolist() == original[batch.positions[used].numpy()].tolist()


@pytest.mark.proves("dataset.prefetch_factor", "dataset.persistent_workers", "dataset.pin_memory")
def test_the_settings_of_workers_reach_the_loader(rows: TokenRows) -> None:
    numbers = loader(rows, Share(2, 1)).batches
    workers = Workers(2, prefetch_factor=7, persistent=True, pin_memory=True)
    built = build_loader(numbers, range(4), workers)
    assert (built.num_workers, built.prefetch_factor, built.pin_memory) == (2, 7, True)
    assert built.persistent_workers
    assert not build_loader(
        numbers, range(4), replace(workers, persistent=False)
    ).persistent_workers
    alone = build_loader(numbers, range(4), replace(workers, number=0))
    assert (alone.num_workers, alone.prefetch_factor, alone.persistent_workers) == (0, None, False)
