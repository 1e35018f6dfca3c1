"""The source of each row as a function of its number."""

import numpy as np
import pytest

from neobert.data.mixture import SourceOrder, integer_parts, tempered


@pytest.mark.parametrize(
    "weights",
    [
        (0.7, 0.2, 0.1),
        (0.5, 0.5),
        (1.0,),
        (0.34567, 0.12345, 0.53088),
        (0.9, 0.02, 0.02, 0.02, 0.02, 0.02),
        tempered((1e9, 3e7, 5e5, 17.0), 0.3),
    ],
)
def test_the_share_of_each_source_is_within_one_row_at_every_row(weights: tuple[float]) -> None:
    order = SourceOrder.of([(0, weights)])
    parts = order.spans[0].parts
    shares = np.array(parts) / sum(parts)
    assert shares == pytest.approx(np.array(weights), abs=1e-5)
    rows = min(3 * sum(parts), 120_000)
    counts = np.zeros(len(weights))
    for number in range(rows):
        source, ordinal = order.row(number)
        assert ordinal == counts[source]
        counts[source] += 1
        assert np.abs(counts - shares * (number + 1)).max() < 1
    assert order.counts(rows) == counts.astype(int).tolist()


def test_parts_are_the_smallest_integers_of_the_proportion() -> None:
    assert integer_parts((0.7, 0.2, 0.1)) == (7, 2, 1)
    assert integer_parts((0.5, 0.25, 0.25)) == (2, 1, 1)
    assert sum(integer_parts((1 / 3, 1 / 3, 1 / 3))) <= 100_000


@pytest.mark.proves("dataset.mixture_temperature")
def test_temperature_raises_the_share_of_small_sources() -> None:
    assert tempered((90.0, 10.0), 1.0) == pytest.approx((0.9, 0.1))
    assert tempered((90.0, 10.0), 0.0) == pytest.approx((0.5, 0.5))
    assert tempered((81.0, 16.0), 0.5) == pytest.approx((9 / 13, 4 / 13))
    assert tempered((81.0, 0.0), 0.0) == (1.0, 0.0)


def test_each_source_continues_with_its_next_row_where_weights_change() -> None:
    changes = [
        (0, (0.7, 0.2, 0.1)),
        (25, (0.7, 0.2, 0.1)),
        (40, (0.0, 0.5, 0.5)),
        (77, (1.0, 0.0, 0.0)),
    ]
    order = SourceOrder.of(changes)
    assert len(order.spans) == 3  # equal weights continue
    counts, wanted = np.zeros(3, int), np.zeros(3)
    for number in range(150):
        assert order.counts(number) == counts.tolist()
        source, ordinal = order.row(number)
        assert ordinal == counts[source]
        counts[source] += 1
        weights = next(one for first, one in reversed(changes) if first <= number)
        if number in (40, 77):
            wanted = counts - np.eye(3)[source]  # the share is counted from the change on
        wanted = wanted + np.array(weights)
        assert np.abs(counts - wanted).max() < 1
    assert counts.sum() == 150
    assert order.of_rows(20, 100).tolist() == [order.row(number)[0] for number in range(20, 120)]
