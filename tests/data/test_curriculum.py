"""Mask rates, mixtures and crops as functions of a number."""

import numpy as np
import pytest

from neobert.config.stages import place_in_run
from neobert.data.curriculum import (
    Crop,
    Mixture,
    crop_documents,
    integer_parts,
    mask_rate,
    tempered,
)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.3, 0.3, 0.225, 0.15, 0.15]),
        ("cosine", [0.3, 0.3, 0.225, 0.15, 0.15]),
        ("steps", [0.3, 0.3, 0.3, 0.15, 0.15]),
    ],
)
def test_a_mask_rate_between_two_points(shape: str, expected: list[float]) -> None:
    rate = mask_rate(0.9, {"10%": 0.3, "90": 0.15}, shape, total_steps=100)
    assert [rate.at(step) for step in (0, 10, 50, 90, 1000)] == pytest.approx(expected)
    assert rate.highest == 0.3


def test_cosine_is_slow_at_its_ends() -> None:
    rate = mask_rate(0.9, {"0": 0.0, "100": 1.0}, "cosine", total_steps=100)
    assert rate.at(25) == pytest.approx(0.1464466)


def test_without_a_schedule_the_rate_is_constant() -> None:
    rate = mask_rate(0.2, {}, "linear", total_steps=100)
    assert [rate.at(0), rate.at(99)] == [0.2, 0.2]


@pytest.mark.parametrize("place", ["101%", "-1", "end", "x%", "1.5"])
def test_places_that_are_none(place: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        place_in_run(place, 100)


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
    mixture = Mixture.of(weights)
    shares = np.array(mixture.parts) / sum(mixture.parts)
    assert shares == pytest.approx(np.array(weights), abs=1e-5)
    rows = min(3 * sum(mixture.parts), 120_000)
    counts = np.zeros(len(weights))
    for number in range(rows):
        source, ordinal = mixture.row(number)
        assert ordinal == counts[source]
        counts[source] += 1
        assert np.abs(counts - shares * (number + 1)).max() < 1
    assert mixture.counts(rows) == counts.astype(int).tolist()


def test_parts_are_the_smallest_integers_of_the_proportion() -> None:
    assert integer_parts((0.7, 0.2, 0.1)) == (7, 2, 1)
    assert integer_parts((0.5, 0.25, 0.25)) == (2, 1, 1)
    assert sum(integer_parts((1 / 3, 1 / 3, 1 / 3))) <= 100_000


def test_temperature_raises_the_share_of_small_sources() -> None:
    assert tempered((90.0, 10.0), 1.0) == pytest.approx((0.9, 0.1))
    assert tempered((90.0, 10.0), 0.0) == pytest.approx((0.5, 0.5))
    assert tempered((81.0, 16.0), 0.5) == pytest.approx((9 / 13, 4 / 13))


def cropped(epoch: int = 0, share: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    documents = np.arange(50, 2050)
    lengths = np.arange(2000) % 700
    return crop_documents(documents, lengths, Crop(12, 128, share, seed=3), epoch)


def test_no_token_is_lost_or_taken_twice() -> None:
    document, start, length = cropped()
    covered: dict[int, int] = {}
    for number, first, size in zip(document, start, length, strict=True):
        assert first == covered.get(number, 0)
        covered[number] = first + size
    expected = {50 + i: i % 700 for i in range(2000) if i % 700}
    assert covered == expected


def test_lengths_are_uniform_between_the_bounds() -> None:
    document, _, length = cropped()
    is_last = np.append(document[1:] != document[:-1], True)
    inner = length[~is_last]
    assert inner.min() == 12
    assert inner.max() == 128
    assert inner.mean() == pytest.approx(70, rel=0.05)


def test_a_share_of_zero_cuts_at_full_length_only() -> None:
    document, _, length = cropped(share=0.0)
    is_last = np.append(document[1:] != document[:-1], True)
    assert set(length[~is_last].tolist()) == {128}


def test_lengths_depend_on_document_and_epoch_alone() -> None:
    every = cropped()
    some = crop_documents(np.arange(60, 90), np.arange(10, 40) % 700, Crop(12, 128, 1.0, seed=3), 0)
    rows = (every[0] >= 60) & (every[0] < 90)
    for whole, part in zip(every, some, strict=True):
        assert np.array_equal(whole[rows], part)
    assert not np.array_equal(every[2], cropped(epoch=1)[2])
