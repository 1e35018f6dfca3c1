"""Level two of the promise: a stream goes on with the very next document."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from datasets import load_dataset

from neobert.batch import MaskedBatch
from neobert.config.checks import ConfigError
from neobert.data.curriculum import MaskRate
from neobert.data.loader import Workers
from neobert.data.masking import Masking
from neobert.data.packing import Packing
from neobert.data.sources import Documents
from neobert.data.steps import Share, Steps
from neobert.data.stream import StreamBatches, StreamLoader, StreamRows
from neobert.data.tokenizer import TokenizerInfo
from neobert.training.callbacks.batch_digest import digest

TOTAL_STEPS = 30  # about one and a half epochs


@pytest.fixture
def stream_rows(tmp_path: Path, info: TokenizerInfo, texts: list[str]) -> StreamRows:
    """A stream over three files."""
    for shard in range(3):
        (tmp_path / f"part-{shard}.txt").write_text("\n".join(texts[shard::3]) + "\n")
    files = sorted(str(path) for path in tmp_path.glob("*.txt"))
    stream = load_dataset("text", data_files=files, split="train", streaming=True)
    return StreamRows(
        stream=stream.select_columns(["text"]),
        documents=Documents("mine", {"mine": 1}, list, lambda e: ConfigError(f"mine: {e}")),
        column="text",
        tokenizer=info,
        masking=Masking(MaskRate.constant(0.2), False, info.mask_token_id, info.random_ids, seed=3),
        packing=Packing(32, 32, info.wrapping, packed=True, truncate=False),
        window=25,
    )


def loader(rows: StreamRows, share: Share, workers: int = 0, **steps: object) -> StreamLoader:
    return StreamLoader(StreamBatches(rows, Steps(share, **steps)), TOTAL_STEPS, Workers(workers))


def digests(batches: StreamLoader) -> list[str]:
    return [digest(batch) for batch in batches]


def rows_of(batches: list[MaskedBatch]) -> list[list[int]]:
    return [row for batch in batches for row in batch.inputs.input_ids.view(-1, 32).tolist()]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("stops", [(1,), (4, 5, 17), (13, 29)])
def test_a_stopped_run_goes_on_with_the_very_next_row(
    stream_rows: StreamRows, stops: tuple[int, ...], packed: bool
) -> None:
    stream_rows = replace(stream_rows, packing=replace(stream_rows.packing, packed=packed))
    undisturbed = digests(loader(stream_rows, Share(2, 2)))
    found: list[str] = []
    state = None
    for stop in (*stops, TOTAL_STEPS):
        here = loader(stream_rows, Share(2, 2))
        if state is not None:
            here.load_state_dict(state)
        found += [digest(batch) for batch in islice(iter(here), 2 * stop - len(found))]
        state = here.state_dict()
    assert found == undisturbed


@pytest.mark.parametrize("workers", [1, 2])
def test_it_does_not_depend_on_the_number_of_workers(stream_rows: StreamRows, workers: int) -> None:
    assert digests(loader(stream_rows, Share(2, 2), workers)) == digests(
        loader(stream_rows, Share(2, 2))
    )


def test_a_run_may_go_on_with_another_number_of_ranks_and_workers(stream_rows: StreamRows) -> None:
    alone = list(loader(stream_rows, Share(2, 2)))
    first = loader(stream_rows, Share(2, 2))
    list(islice(iter(first), 2 * 7))
    ranks = [loader(stream_rows, Share(2, 1, rank, 2), workers=1) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(first.state_dict())
    pairs = zip(*(rows_of(list(islice(iter(rank), 5))) for rank in ranks), strict=True)
    assert [row for pair in pairs for row in pair] == rows_of(alone[14:24])


@pytest.mark.proves("dataset.shuffle_buffer_size")
def test_every_document_comes_once_an_epoch_shuffled_or_in_order(
    stream_rows: StreamRows, texts: list[str]
) -> None:
    def first_epoch(window: int) -> list[tuple[int, ...]]:
        rows = replace(
            stream_rows, window=window, packing=replace(stream_rows.packing, packed=False)
        )
        found = []
        for start, window_rows, order in rows.windows(loader(rows, Share(1, 1))._state):
            if start["epoch"] == 1:
                break
            found += [tuple(window_rows.lay_out(row).ids.tolist()) for row in order.tolist()]
        return found

    ordered, shuffled = first_epoch(0), first_epoch(25)
    assert len(ordered) >= len(texts)
    assert Counter(ordered) == Counter(shuffled)
    assert ordered != shuffled


def test_after_a_change_of_batch_the_very_next_row_follows(stream_rows: StreamRows) -> None:
    undisturbed = rows_of(list(loader(stream_rows, Share(2, 2))))
    before = loader(stream_rows, Share(2, 2))
    seen = rows_of(list(islice(iter(before), 10)))
    after = loader(stream_rows, Share(3, 1))
    after.load_state_dict(before.state_dict())
    seen += rows_of(list(islice(iter(after), 4)))
    assert seen == undisturbed[: len(seen)]


def test_another_stream_starts_at_its_beginning(
    stream_rows: StreamRows, caplog: pytest.LogCaptureFixture
) -> None:
    before = loader(stream_rows, Share(2, 2))
    list(islice(iter(before), 10))
    other = replace(stream_rows, documents=replace(stream_rows.documents, key={"other": 1}))
    after = loader(other, Share(2, 2))
    with caplog.at_level("WARNING", logger="neobert"):
        after.load_state_dict(before.state_dict())
    assert "starts at its beginning" in caplog.text
    # The same rows as at the start, under masks of their own.
    start = next(iter(loader(stream_rows, Share(2, 2)))).inputs.cu_seqlens.tolist()
    assert next(iter(after)).inputs.cu_seqlens.tolist() == start


def test_rows_made_otherwise_go_on_at_the_start_of_the_window(
    stream_rows: StreamRows, caplog: pytest.LogCaptureFixture
) -> None:
    before = loader(stream_rows, Share(2, 2))
    list(islice(iter(before), 20))
    longer = replace(stream_rows, packing=replace(stream_rows.packing, row_length=64, longest=64))
    after = loader(longer, Share(2, 2))
    with caplog.at_level("WARNING", logger="neobert"):
        after.load_state_dict(before.state_dict())
    assert "made otherwise" in caplog.text
    assert next(iter(after)).inputs.input_ids.shape == (128,)
    assert after._state["window"] == before._state["window"]


def test_the_data_of_a_skipped_span_is_left_out(stream_rows: StreamRows) -> None:
    plain = digests(loader(stream_rows, Share(2, 1)))
    skipped = digests(loader(stream_rows, Share(2, 1), skipped=(range(2, 5),)))
    assert skipped[:2] == plain[:2]
    assert skipped[2:10] == plain[5:13]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_in_the_middle_is_told_also_out_of_a_worker(
    stream_rows: StreamRows, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "part-1.txt").write_bytes(b"na\xefve\n")
    with pytest.raises(ConfigError, match=r"mine: 'utf-8' codec"):
        digests(loader(stream_rows, Share(2, 2), workers))


def test_a_stream_without_a_document_is_refused(stream_rows: StreamRows, tmp_path: Path) -> None:
    empty = replace(stream_rows, stream=stream_rows.stream.take(0))
    with pytest.raises(ConfigError, match="no document to train on"):
        digests(loader(empty, Share(2, 2)))


def test_a_stream_of_none_but_short_documents_is_refused(stream_rows: StreamRows) -> None:
    longer = replace(stream_rows, packing=replace(stream_rows.packing, shortest=10_000))
    with pytest.raises(ConfigError, match=r"no document .* 10000 tokens or more .*min_length"):
        digests(loader(longer, Share(2, 2)))


@pytest.mark.parametrize("spans", [(), (range(1, 3),)])
def test_a_span_that_is_behind_moves_nothing_any_more(
    stream_rows: StreamRows, spans: tuple[range, ...]
) -> None:
    plain = digests(loader(stream_rows, Share(2, 1)))
    before = loader(stream_rows, Share(2, 1), skipped=(range(2, 5),))
    list(islice(iter(before), 15))
    after = loader(stream_rows, Share(2, 1), skipped=spans)
    after.load_state_dict(before.state_dict())
    assert [digest(batch) for batch in islice(iter(after), 5)] == plain[18:23]
