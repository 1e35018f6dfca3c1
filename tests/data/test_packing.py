import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neobert.data.curriculum import Crop
from neobert.data.packing import Packing, PlanInfo, RowPlan

PACKING = Packing(row_length=64, longest=64, wrapping=2, packed=True, truncate=True)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)])


def documents(count: int, longest: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.minimum(draw.geometric(0.02, count), longest).astype(np.int64)


def rows_of(plan: RowPlan) -> list[list[tuple[int, int, int]]]:
    return [plan.row(row) for row in range(plan.num_rows)]


@pytest.mark.proves("tokenizer.truncation", "datacollator.pack_sequences")
@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("window", [7, 100_000])
def test_no_document_is_lost_or_doubled_and_none_crosses_a_row(truncate: bool, window: int) -> None:
    lengths = documents(500, 300)
    plan = replace(PACKING, truncate=truncate).plan(offsets_of(lengths), window)
    seen: dict[int, list[tuple[int, int]]] = {}
    for parts in rows_of(plan):
        cut = [(one, start, min(size, lengths[one] - start)) for one, start, size in parts]
        assert sum(size + 2 for _, _, size in cut) <= 64
        for document, start, size in cut:
            seen.setdefault(document, []).append((start, size))
    assert sorted(seen) == list(range(500))
    for document, parts in seen.items():
        covered = [place for start, size in sorted(parts) for place in range(start, start + size)]
        whole = min(lengths[document], 62) if truncate else lengths[document]
        assert covered == list(range(whole))


def test_truncation_says_how_many_tokens_it_cost() -> None:
    offsets = offsets_of(np.array([10, 70, 100]))
    assert PACKING.plan(offsets).info.cut_tokens == 8 + 38
    assert replace(PACKING, truncate=False).plan(offsets).info.cut_tokens == 0


@pytest.mark.proves("dataset.min_length", "dataset.filter_by_length")
def test_short_documents_are_left_out_where_asked() -> None:
    plan = replace(PACKING, shortest=5).plan(offsets_of(np.array([3, 0, 9, 5])))
    assert sorted(plan.document.tolist()) == [2, 3]
    assert plan.info.documents == 2


@pytest.mark.parametrize("row_length", [512, 1024])
def test_rows_are_99_percent_full(row_length: int) -> None:
    packing = Packing(row_length, row_length, 2, packed=True, truncate=False)
    assert packing.plan(offsets_of(documents(20_000, 2000))).fill >= 0.99


def test_an_unpacked_row_is_one_document() -> None:
    single = replace(PACKING, packed=False, truncate=False)
    plan = single.plan(offsets_of(np.array([4, 9])))
    assert rows_of(plan) == [[(0, 0, 4)], [(1, 0, 9)]]
    assert plan.info.tokens == 4 + 9 + 4


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("count", [0, 50])
def test_a_plan_is_written_as_it_is_in_memory(
    tmp_path: Path, packed: bool, truncate: bool, count: int
) -> None:
    packing = replace(PACKING, packed=packed, truncate=truncate)
    offsets = offsets_of(documents(count, 90))
    plan = packing.plan(offsets, window=16)
    packing.write_plan(offsets, tmp_path, window=16)
    again = RowPlan.load(tmp_path)
    assert rows_of(again) == rows_of(plan)
    assert (again.fill, again.info) == (plan.fill, plan.info)
    assert again.info != PlanInfo() or count == 0


def test_several_processes_write_the_plan_of_one(tmp_path: Path) -> None:
    offsets = offsets_of(documents(2000, 90))
    PACKING.write_plan(offsets, tmp_path, num_proc=2, window=100)
    assert rows_of(RowPlan.load(tmp_path)) == rows_of(PACKING.plan(offsets, window=100))


def test_a_plan_takes_the_memory_of_one_window(tmp_path: Path) -> None:
    lengths = documents(150_000, 60)
    offsets = offsets_of(lengths)
    tracemalloc.start()
    PACKING.write_plan(offsets, tmp_path, window=4096)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6  # as lists of all documents: 140 bytes each, 21 MB
    assert RowPlan.load(tmp_path).info.documents == len(lengths)


CROPPED = replace(PACKING, crop=Crop(shortest=5, longest=62, share=1.0, seed=4))


def pieces_of(plan: RowPlan) -> list[tuple[int, int, int]]:
    return [piece for row in range(plan.num_rows) for piece in plan.row(row)]


@pytest.mark.parametrize("window", [7, 1 << 16])
def test_crops_lose_no_token_and_fit_their_rows(window: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 200)
    plan = CROPPED.plan(np.concatenate([[0], np.cumsum(lengths)]), window)
    covered: dict[int, int] = {}
    for document, start, length in sorted(pieces_of(plan)):
        assert start == covered.get(document, 0)
        covered[document] = start + length
    assert covered == dict(enumerate(lengths.tolist()))
    for row in range(plan.num_rows):
        assert sum(length + 2 for _, _, length in plan.row(row)) <= 64


def test_each_epoch_has_crops_of_its_own_whatever_the_window() -> None:
    offsets = np.arange(0, 200 * 150, 150)
    plans = [sorted(pieces_of(CROPPED.plan(offsets, window))) for window in (7, 1 << 16)]
    assert plans[0] == plans[1]
    assert sorted(pieces_of(CROPPED.plan(offsets, epoch=1))) != plans[0]


def test_documents_shorter_than_the_least_length_are_not_cropped() -> None:
    offsets = np.array([0, 50, 150, 160])
    plan = replace(CROPPED, shortest=60).plan(offsets)
    assert {document for document, _, _ in pieces_of(plan)} == {1}


def test_the_windows_of_a_stream_are_cropped_differently() -> None:
    offsets = np.arange(0, 200 * 50, 150)
    one, other = (CROPPED.of_window(3, window).plan(offsets) for window in (0, 1))
    assert pieces_of(one) != pieces_of(other)
    assert PACKING.of_window(3, 0) == PACKING
