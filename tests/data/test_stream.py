"""Level two of the promise: a stream goes on with the very next document."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path
from threading import Thread, current_thread

import pytest
from datasets import load_dataset

from neobert.batch import MaskedBatch
from neobert.data.curriculum import MaskRate
from neobert.data.loader import Workers
from neobert.data.masking import Masking
from neobert.data.mixture import ONE_SOURCE, SourceOrder
from neobert.data.packing import Packing
from neobert.data.sources import Documents
from neobert.data.steps import Share, Steps
from neobert.data.stream import StreamBatches, StreamLoader
from neobert.data.stream_readers import StreamRows
from neobert.data.stream_source import ReaderGroup, StreamPlace, StreamSource, in_order
from neobert.data.token_rows import RowMaker
from neobert.data.tokenize import tokens_of
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError
from neobert.text_tokenizer import Encoded
from neobert.training.callbacks.batch_digest import batch_digest

# Four workers on two cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

TOTAL_STEPS = 30  # about one and a half epochs


def make_stream(tmp_path: Path, info: TokenizerInfo, texts: list[str], files: int) -> StreamRows:
    """A stream over files, of 8 readers."""
    for shard in range(files):
        (tmp_path / f"part-{shard:02}.txt").write_text("\n".join(texts[shard::files]) + "\n")
    paths = sorted(str(path) for path in tmp_path.glob("*.txt"))
    dataset = load_dataset("text", data_files=paths, split="train", streaming=True)
    packing = Packing(32, 32, info.wrapping, packed=True, truncate=False)
    masking = Masking(MaskRate.constant(0.2), False, info.mask_token_id, info.random_ids, seed=3)
    return StreamRows(
        source=StreamSource(dataset, "text"),
        documents=Documents("mine", {"mine": 1}, list, lambda e: ConfigError(f"mine: {e}")),
        maker=RowMaker(info, masking, packing),
        shuffled=25,
        readers=8,
    )


@pytest.fixture(params=[3, 16], ids=["dealt by stride", "dealt by files"])
def stream_rows(
    request: pytest.FixtureRequest, tmp_path: Path, info: TokenizerInfo, texts: list[str]
) -> StreamRows:
    stream = make_stream(tmp_path, info, texts, request.param)
    assert stream.source.num_groups(8) == {3: 1, 16: 8}[request.param]
    return stream


def with_packing(stream: StreamRows, **changes: object) -> StreamRows:
    packing = replace(stream.maker.packing, **changes)
    return replace(stream, maker=replace(stream.maker, packing=packing))


def loader(
    rows: StreamRows | list[StreamRows], share: Share, workers: int = 0, **steps: object
) -> StreamLoader:
    streams = rows if isinstance(rows, list) else [rows]
    order = SourceOrder.of([(0, (0.6, 0.3, 0.1)), (170, (0.2, 0.0, 0.8))])
    order = order if isinstance(rows, list) else ONE_SOURCE
    batches = StreamBatches(streams, Steps(share, **steps), order)
    return StreamLoader(batches, TOTAL_STEPS, Workers(workers))


def digests(batches: StreamLoader) -> list[str]:
    return [batch_digest(batch) for batch in batches]


def rows_of(batches: list[MaskedBatch]) -> list[list[int]]:
    return [row for batch in batches for row in batch.inputs.input_ids.view(-1, 32).tolist()]


def run(
    stream: StreamRows | list[StreamRows],
    ranks: int,
    workers: int,
    steps: int,
    state: dict[str, object] | None,
) -> tuple[list[list[int]], dict[str, object]]:
    """The rows of ``steps`` steps of 24 rows from ``state`` on, in the order of their numbers, and
    the state after them: what ranks that met would have saved."""
    loaders = [loader(stream, Share(24 // ranks, 1, rank, ranks), workers) for rank in range(ranks)]
    found: dict[int, list[int]] = {}
    for one in loaders:
        if state is not None:
            one.load_state_dict(state)
        first = one.state_dict()["place"]["micro_batches"]
        for number, batch in enumerate(islice(iter(one), steps), first):
            found |= zip(one.batches.steps.numbers(number), rows_of([batch]), strict=True)
    states = [one.state_dict() for one in loaders]
    readers: dict[int, dict[str, object]] = {}
    for one in states:
        for reader, place in one["readers"].items():
            if reader not in readers or place["rows"] > readers[reader]["rows"]:
                readers[reader] = place
    return [found[number] for number in sorted(found)], {**states[0], "readers": readers}


@pytest.mark.proves("dataset.stream_readers")
@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (4, 0), (3, 0), (1, 4), (2, 2), (1, 3)])
def test_a_step_is_the_same_for_every_number_of_ranks_and_workers(
    stream_rows: StreamRows, ranks: int, workers: int
) -> None:
    assert run(stream_rows, ranks, workers, 6, None)[0] == run(stream_rows, 1, 0, 6, None)[0]


def test_a_run_continues_under_other_numbers_of_ranks_and_workers(stream_rows: StreamRows) -> None:
    undisturbed, _ = run(stream_rows, 1, 0, 15, None)
    found: list[list[int]] = []
    state = None
    for ranks, workers, steps in [(1, 0, 2), (2, 2, 3), (4, 0, 4), (1, 4, 3), (3, 0, 1), (2, 0, 2)]:
        rows, state = run(stream_rows, ranks, workers, steps, state)
        found += rows
    assert found == undisturbed


@pytest.fixture
def mixture(tmp_path: Path, info: TokenizerInfo, texts: list[str]) -> list[StreamRows]:
    """Three streams, of 8, 4 and 2 readers."""
    streams = []
    for number, readers in enumerate((8, 4, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        stream = make_stream(folder, info, texts[40 * number : 40 * number + 40], 1 + number)
        documents = replace(stream.documents, key={"mine": number})
        streams.append(replace(stream, documents=documents, readers=readers))
    return streams


@pytest.mark.proves("dataset.mixture")
@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (4, 0), (3, 0), (1, 3), (2, 2), (4, 2)])
def test_a_mixture_is_the_same_for_every_number_of_ranks_and_workers(
    mixture: list[StreamRows], ranks: int, workers: int
) -> None:
    assert run(mixture, ranks, workers, 9, None)[0] == run(mixture, 1, 0, 9, None)[0]


def test_a_mixture_continues_under_other_numbers_of_ranks_and_workers(
    mixture: list[StreamRows],
) -> None:
    undisturbed, _ = run(mixture, 1, 0, 14, None)
    found: list[list[int]] = []
    state = None
    for ranks, workers, steps in [(1, 0, 3), (2, 0, 4), (1, 2, 3), (4, 0, 2), (3, 0, 1), (2, 2, 1)]:
        rows, state = run(mixture, ranks, workers, steps, state)
        found += rows
    assert found == undisturbed


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> dict[Thread, Counter[str]]:
    """The documents that each process has tokenised: it reads in a thread of its own."""
    seen: dict[Thread, Counter[str]] = defaultdict(Counter)

    def spy(documents: Documents, info: TokenizerInfo) -> Iterator[Encoded]:
        seen[current_thread()].update(documents.texts())
        return tokens_of(documents, info)

    monkeypatch.setattr("neobert.data.stream_readers.tokens_of", spy)
    return seen


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 3), (2, 1), (2, 2), (4, 1), (4, 2)])
def test_every_document_of_a_mixture_is_tokenised_by_one_process(
    tmp_path: Path,
    info: TokenizerInfo,
    texts: list[str],
    tokenised: dict[Thread, Counter[str]],
    ranks: int,
    workers: int,
) -> None:
    streams = []
    for number, readers in enumerate((8, 8, 4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        numbered = [f"{number} {place} {text}" for place, text in enumerate(texts)]
        streams.append(replace(make_stream(folder, info, numbered, 16), readers=readers))
    order = SourceOrder.of([(0, (0.5, 0.3, 0.2))])
    for rank in range(ranks):
        batches = StreamBatches(streams, Steps(Share(24 // ranks, 1, rank, ranks)), order)
        for worker in range(workers):
            list(islice(batches._parts(worker, workers), 9))
    for thread in tokenised:
        thread.join()
    assert len(tokenised) == ranks * workers
    assert len(sum(tokenised.values(), Counter())) == 3 * len(texts)
    for one, other in combinations(tokenised.values(), 2):
        assert not one.keys() & other.keys()


def test_a_checkpoint_without_the_rows_of_readers_continues_with_their_next_ones(
    mixture: list[StreamRows], caplog: pytest.LogCaptureFixture
) -> None:
    before = loader(mixture, Share(24, 1))
    list(islice(iter(before), 4))
    state = before.state_dict()
    del state["rows"]
    state["counts"] = before.batches.order.counts(96)
    after = loader(mixture, Share(24, 1))
    with caplog.at_level("WARNING", logger="neobert"):
        after.load_state_dict(state)
    assert "in another order than before" in caplog.text
    first, second, third = state["counts"]
    rows = after.state_dict()["rows"]
    assert rows[:8] == [-(-(first - reader) // 8) for reader in range(8)]
    assert rows[8:12] == [-(-(second - reader) // 4) for reader in range(4)]
    assert sum(rows[12:]) == third


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("files", [3, 16])
def test_every_document_is_tokenised_by_one_process(
    tmp_path: Path,
    info: TokenizerInfo,
    texts: list[str],
    tokenised: dict[Thread, Counter[str]],
    ranks: int,
    files: int,
) -> None:
    numbered = [f"{number} {text}" for number, text in enumerate(texts)]
    stream = make_stream(tmp_path, info, numbered, files)

    for rank in range(ranks):
        list(islice(iter(loader(stream, Share(8 // ranks, 1, rank, ranks))), 12))
    for thread in tokenised:
        thread.join()
    assert len(tokenised) == ranks
    assert len(sum(tokenised.values(), Counter())) == len(texts)
    for one, other in combinations(tokenised.values(), 2):
        assert not one.keys() & other.keys()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("stops", [(1,), (4, 5, 17), (13, 29)])
def test_a_stopped_run_goes_on_with_the_very_next_row(
    stream_rows: StreamRows, stops: tuple[int, ...], packed: bool
) -> None:
    stream_rows = with_packing(stream_rows, packed=packed)
    undisturbed = digests(loader(stream_rows, Share(2, 2)))
    found: list[str] = []
    state = None
    for stop in (*stops, TOTAL_STEPS):
        here = loader(stream_rows, Share(2, 2))
        if state is not None:
            here.load_state_dict(state)
        found += [batch_digest(batch) for batch in islice(iter(here), 2 * stop - len(found))]
        state = here.state_dict()
    assert found == undisturbed


@pytest.mark.parametrize("workers", [1, 2, 4])
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
    stream_rows: StreamRows, info: TokenizerInfo, texts: list[str]
) -> None:
    room = 32 - info.wrapping
    sizes = info.text.encode(texts)[1].tolist()
    rows = sum(-(-size // room) for size in sizes)

    def first_epoch(shuffled: int) -> list[tuple[int, ...]]:
        stream = replace(with_packing(stream_rows, packed=False), shuffled=shuffled, readers=1)
        found = []
        for batch in islice(loader(stream, Share(1, 1)).batches.micro_batches(), rows):
            ids = batch.inputs.input_ids.clone()
            ids[batch.positions] = batch.labels
            found.append(tuple(ids.tolist()))
        return found

    ordered, shuffled = first_epoch(0), first_epoch(25)
    assert sum(map(len, ordered)) == sum(sizes) + info.wrapping * rows
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
    list(islice(iter(before), 12))
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
    longer = with_packing(stream_rows, row_length=64, longest=64)
    after = loader(longer, Share(2, 2))
    with caplog.at_level("WARNING", logger="neobert"):
        after.load_state_dict(before.state_dict())
    assert "made otherwise" in caplog.text
    assert next(iter(after)).inputs.input_ids.shape == (128,)
    begun = {in_order(state.place) for state in before.states.values()}
    assert {in_order(state.place) for state in after.states.values()} <= begun


def test_the_data_of_a_skipped_span_is_left_out(stream_rows: StreamRows) -> None:
    plain = digests(loader(stream_rows, Share(2, 1)))
    skipped = digests(loader(stream_rows, Share(2, 1), skipped=(range(2, 5),)))
    assert skipped[:2] == plain[:2]
    assert skipped[2:10] == plain[5:13]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_in_the_middle_is_told_also_out_of_a_worker(
    stream_rows: StreamRows, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "part-01.txt").write_bytes(b"na\xefve\n")
    with pytest.raises(ConfigError, match=r"mine: 'utf-8' codec"):
        digests(loader(stream_rows, Share(2, 2), workers))


def test_a_stream_without_a_document_is_refused(stream_rows: StreamRows, tmp_path: Path) -> None:
    source = replace(stream_rows.source, stop=0)
    empty = replace(stream_rows, source=source)
    with pytest.raises(ConfigError, match="no document to train on"):
        digests(loader(empty, Share(2, 2)))


def test_a_stream_of_none_but_short_documents_is_refused(stream_rows: StreamRows) -> None:
    longer = with_packing(stream_rows, shortest=10_000)
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
    assert [batch_digest(batch) for batch in islice(iter(after), 5)] == plain[18:23]


@pytest.mark.parametrize(
    ("first", "stop", "groups"),
    [(1, None, 8), (9, None, 1), (9, 50, 1), (60, None, 1)],  # files of 7 or 8 documents
)
def test_what_is_held_out_is_in_no_row_however_the_stream_is_dealt(
    tmp_path: Path, info: TokenizerInfo, first: int, stop: int | None, groups: int
) -> None:
    letters = [str(number) for number in range(120)]
    whole = make_stream(tmp_path, info, letters, 16)
    trained = {reader: set() for reader in range(8)}
    kept = list(StreamSource(whole.source.dataset, "text"))[first:stop]
    part = replace(whole, source=replace(whole.source, first=first, stop=stop))
    assert list(part.source) == kept
    assert part.source.num_groups(8) == groups  # readers without a whole file share
    for reader in range(8):
        waiting = {reader: StreamPlace()}
        group = ReaderGroup(part.source, reader % groups, groups, 8 // groups, 5, waiting)
        while waiting[reader].epoch == 0:
            trained[reader].update(group.next_window(reader)[0])
    assert sorted(text for texts in trained.values() for text in texts) == sorted(kept)


def test_fewer_workers_than_set_are_reported_where_readers_allow_no_more(
    stream_rows: StreamRows, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="neobert"):
        assert loader(stream_rows, Share(2, 2), workers=3).workers.number == 2
    assert "dataset.num_workers: 2" in caplog.text
    assert loader(stream_rows, Share(2, 2, 0, 4), workers=3).workers.number == 2
