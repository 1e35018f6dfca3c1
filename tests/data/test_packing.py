import numpy as np
import pytest

from neobert.data.packing import RowPlan, cut_documents, plan_packed, plan_single


def lengths(count: int, longest: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.minimum(draw.geometric(0.02, count), longest).astype(np.int64)


@pytest.mark.proves("tokenizer.truncation", "datacollator.pack_sequences")
@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("window", [7, 100_000])
def test_no_document_is_lost_or_doubled_and_none_crosses_a_row(truncate: bool, window: int) -> None:
    documents = lengths(500, 300)
    pieces = cut_documents(documents, room=62, truncate=truncate)
    plan = plan_packed(pieces, row_length=64, wrapping=2, window=window)
    seen: dict[int, list[tuple[int, int]]] = {}
    for row in range(plan.num_rows):
        parts = plan.row(row)
        assert sum(size + 2 for _, _, size in parts) <= 64
        for document, start, size in parts:
            seen.setdefault(document, []).append((start, size))
    assert sorted(seen) == list(range(500))
    for document, parts in seen.items():
        covered = [place for start, size in sorted(parts) for place in range(start, start + size)]
        whole = min(documents[document], 62) if truncate else documents[document]
        assert covered == list(range(whole))


def test_truncation_says_how_many_tokens_it_cost() -> None:
    pieces = cut_documents(np.array([10, 70, 100]), room=62, truncate=True)
    assert pieces.cut_tokens == 8 + 38
    assert cut_documents(np.array([10, 70, 100]), room=62, truncate=False).cut_tokens == 0


@pytest.mark.proves("dataset.min_length", "dataset.filter_by_length")
def test_short_documents_are_left_out_where_asked() -> None:
    pieces = cut_documents(np.array([3, 0, 9, 5]), room=62, truncate=True, shortest=5)
    assert pieces.document.tolist() == [2, 3]


@pytest.mark.parametrize("row_length", [512, 1024])
def test_rows_are_99_percent_full(row_length: int) -> None:
    pieces = cut_documents(lengths(20_000, 2000), row_length - 2, truncate=False)
    assert plan_packed(pieces, row_length, wrapping=2).fill >= 0.99


def test_an_unpacked_row_is_one_document() -> None:
    plan = plan_single(cut_documents(np.array([4, 9]), 62, True), 64, wrapping=2)
    assert [plan.row(row) for row in range(plan.num_rows)] == [[(0, 0, 4)], [(1, 0, 9)]]
    assert plan.tokens == 4 + 9 + 4


def test_a_plan_survives_its_file(tmp_path) -> None:
    plan = plan_packed(cut_documents(lengths(50, 90), 62, True), 64, wrapping=2)
    plan.save(tmp_path)
    again = RowPlan.load(tmp_path)
    assert [again.row(row) for row in range(again.num_rows)] == [
        plan.row(row) for row in range(plan.num_rows)
    ]
    assert (again.fill, again.tokens, again.pieces.cut_tokens) == (
        plan.fill,
        plan.tokens,
        plan.pieces.cut_tokens,
    )
