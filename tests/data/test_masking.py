import numpy as np
import pytest

from neobert.data.masking import Masking, mask_row

MASK = 4


def masking(**changes: object) -> Masking:
    settings = {
        "probability": 0.2,
        "mask_all": False,
        "mask_id": MASK,
        "random_ids": np.arange(5, 100),
        "seed": 3,
    }
    return Masking(**{**settings, **changes})


def row(length: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 100, length)
    maskable = np.ones(length, bool)
    maskable[[0, -1]] = False
    ids[[0, -1]] = 2, 3
    return ids, maskable


@pytest.mark.proves("seed")
def test_a_mask_depends_on_seed_and_row_alone() -> None:
    one = mask_row(*row(), masking(), 7)
    again = mask_row(*row(), masking(), 7)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[1], mask_row(*row(), masking(), 8)[1])
    assert not np.array_equal(one[1], mask_row(*row(), masking(seed=4), 7)[1])


@pytest.mark.proves("datacollator.mask_all")
def test_mask_all_leaves_nothing_to_see() -> None:
    corrupted, chosen = mask_row(*row(), masking(mask_all=True), 0)
    assert (corrupted[chosen] == MASK).all()


def test_otherwise_80_10_10() -> None:
    ids, maskable = row(50_000)
    corrupted, chosen = mask_row(ids, maskable, masking(), 0)
    masked = (corrupted[chosen] == MASK).mean()
    kept = (corrupted[chosen] == ids[chosen]).mean()
    assert masked == pytest.approx(0.8, abs=0.02)
    assert kept == pytest.approx(0.1 + 0.1 / 95, abs=0.02)


def test_special_tokens_and_what_is_not_chosen_stay_as_they_are() -> None:
    ids, maskable = row()
    corrupted, chosen = mask_row(ids, maskable, masking(), 0)
    assert maskable[chosen].all()
    others = np.setdiff1d(np.arange(len(ids)), chosen)
    assert np.array_equal(corrupted[others], ids[others])


def test_random_words_are_never_special_or_inert() -> None:
    allowed = np.array([50, 60])
    ids, maskable = row(20_000)
    ids[ids >= 50] = 10
    corrupted, _ = mask_row(ids, maskable, masking(random_ids=allowed), 0)
    new = set(corrupted[corrupted != ids].tolist())
    assert new == {MASK, 50, 60}


@pytest.mark.proves("datacollator.mlm_probability")
@pytest.mark.parametrize("probability", [0.0, 0.15, 0.5, 1.0])
def test_every_token_is_a_target_with_that_probability(probability: float) -> None:
    ids, maskable = row(12)
    counts = np.zeros(12)
    for number in range(4000):
        counts[mask_row(ids, maskable, masking(probability=probability), number)[1]] += 1
    assert counts[0] == counts[-1] == 0
    assert counts[1:-1] / 4000 == pytest.approx(probability, abs=0.03)


def test_the_number_of_targets_is_fixed_up_to_rounding() -> None:
    counts = {len(mask_row(*row(), masking(), number)[1]) for number in range(50)}
    assert counts <= {199, 200}
    assert masking().most_targets(1000) == 200
