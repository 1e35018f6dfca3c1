"""Mask rates and crops as functions of a number."""

import numpy as np
import pytest

from neobert.config.datacollator import DataCollatorConfig
from neobert.config.stages import place_in_run
from neobert.data.curriculum import Crop, MaskRate, crop_documents, mask_rate


def rate_of(schedule: dict[str, float], shape: str) -> MaskRate:
    collator = DataCollatorConfig(
        mlm_probability=0.9, mlm_schedule=schedule, mlm_schedule_shape=shape
    )
    return mask_rate(collator, total_steps=100)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.3, 0.3, 0.225, 0.15, 0.15]),
        ("cosine", [0.3, 0.3, 0.225, 0.15, 0.15]),
        ("steps", [0.3, 0.3, 0.3, 0.15, 0.15]),
    ],
)
def test_a_mask_rate_between_two_points(shape: str, expected: list[float]) -> None:
    rate = rate_of({"10%": 0.3, "90": 0.15}, shape)
    assert [rate.at(step) for step in (0, 10, 50, 90, 1000)] == pytest.approx(expected)
    assert rate.highest == 0.3


def test_cosine_is_slow_at_its_ends() -> None:
    rate = rate_of({"0": 0.0, "100": 1.0}, "cosine")
    assert rate.at(25) == pytest.approx(0.1464466)


def test_without_a_schedule_the_rate_is_constant() -> None:
    rate = rate_of({}, "linear")
    assert [rate.at(0), rate.at(99)] == [0.9, 0.9]


@pytest.mark.parametrize("place", ["101%", "-1", "end", "x%", "1.5"])
def test_places_that_are_none(place: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        place_in_run(place, 100)


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
