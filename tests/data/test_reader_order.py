"""Which reader makes each row of a mixture: one rank's, evenly, with the shares kept."""

from itertools import accumulate, pairwise

import pytest

from neobert.data.mixture import SourceOrder
from neobert.data.reader_order import DealtReaders, ReaderRotation

MIXTURES = {
    "halves": ((0.5, 0.5), (64, 64)),
    "three": ((0.7, 0.2, 0.1), (64, 64, 64)),
    "rhythm of the lanes": ((63 / 64, 1 / 64), (64, 64)),
    "fewer readers": ((0.6, 0.3, 0.1), (64, 16, 4)),
    "many": ((0.5, *[0.025] * 20), (64,) * 21),
}
ROWS_PER_STEP = 192


@pytest.fixture(params=MIXTURES)
def mixture(request: pytest.FixtureRequest) -> tuple[SourceOrder, tuple[int, ...]]:
    weights, readers = MIXTURES[request.param]
    return SourceOrder.of([(0, weights)]), readers


def by_reader(order: DealtReaders, rows: range) -> dict[int, list[int]]:
    """The rows of each reader; each reader's are consecutive."""
    found: dict[int, list[int]] = {}
    for number in rows:
        reader, index = order.row(number)
        assert index == len(found.setdefault(reader, []))
        found[reader].append(number)
    return found


def test_each_source_keeps_its_rows_in_every_step(
    mixture: tuple[SourceOrder, tuple[int, ...]],
) -> None:
    sources, readers = mixture
    order = DealtReaders(sources, readers, ROWS_PER_STEP)
    for step in range(1, 20):
        rows = order.rows_before(step * ROWS_PER_STEP)
        bounds = pairwise(accumulate(readers, initial=0))
        of_sources = [sum(rows[start:stop]) for start, stop in bounds]
        assert of_sources == sources.counts(step * ROWS_PER_STEP)


def test_the_rows_of_a_reader_are_all_of_one_rank(
    mixture: tuple[SourceOrder, tuple[int, ...]],
) -> None:
    sources, readers = mixture
    order = DealtReaders(sources, readers, ROWS_PER_STEP)
    made = by_reader(order, range(40 * ROWS_PER_STEP))
    assert len(made) == sum(readers)
    for ranks in (2, 4, 8, 64):
        divided = [n for n, count in enumerate(readers) if count % ranks == 0]
        for number, rows in made.items():
            source = next(n for n, stop in enumerate(accumulate(readers)) if number < stop)
            if source in divided:
                assert len({row % ranks for row in rows}) == 1


def test_a_source_takes_from_its_readers_evenly(
    mixture: tuple[SourceOrder, tuple[int, ...]],
) -> None:
    sources, readers = mixture
    order = DealtReaders(sources, readers, ROWS_PER_STEP)
    for step in range(1, 120):
        rows = order.rows_before(step * ROWS_PER_STEP)
        for start, stop in pairwise(accumulate(readers, initial=0)):
            assert max(rows[start:stop]) - min(rows[start:stop]) <= 4


def test_it_continues_from_the_rows_of_each_reader(
    mixture: tuple[SourceOrder, tuple[int, ...]],
) -> None:
    sources, readers = mixture
    rows, place = range(9 * ROWS_PER_STEP), 5 * ROWS_PER_STEP
    whole = DealtReaders(sources, readers, ROWS_PER_STEP)
    expected = [whole.row(number) for number in rows]
    taken = DealtReaders(sources, readers, ROWS_PER_STEP).rows_before(place)
    resumed = DealtReaders(sources, readers, ROWS_PER_STEP, place, taken)
    assert [resumed.row(number) for number in rows[place:]] == expected[place:]


def test_with_another_batch_each_reader_continues_with_its_next_row() -> None:
    sources, readers = SourceOrder.of([(0, (0.6, 0.4))]), (8, 4)
    taken = DealtReaders(sources, readers, 6).rows_before(54)
    after = DealtReaders(sources, readers, 16, 54, taken)
    assert after.lanes == 8
    seen = dict(enumerate(taken))
    for number in range(54, 54 + 20 * 16):
        reader, index = after.row(number)
        assert index == seen[reader]
        seen[reader] += 1
    of_first = [seen[reader] for reader in range(8)]
    assert max(of_first) - min(of_first) <= 2


def test_one_stream_is_dealt_in_rotation() -> None:
    rotation = ReaderRotation(3)
    assert [rotation.row(number) for number in range(4)] == [(0, 0), (1, 0), (2, 0), (0, 1)]
    assert rotation.rows_before(4) == [2, 1, 1]
