import numpy as np
import pytest

from neobert.config.datacollator import DataCollatorConfig
from neobert.config.root import Config
from neobert.data.curriculum import MaskRate
from neobert.data.mask_units import MaskUnits
from neobert.data.masking import Masking, mask_row

MASK = 4


def masking(**changes: object) -> Masking:
    settings = {
        "rate": MaskRate.constant(0.2),
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
        counts[
            mask_row(ids, maskable, masking(rate=MaskRate.constant(probability)), number)[1]
        ] += 1
    assert counts[0] == counts[-1] == 0
    assert counts[1:-1] / 4000 == pytest.approx(probability, abs=0.03)


def test_the_number_of_targets_is_fixed_up_to_rounding() -> None:
    counts = {len(mask_row(*row(), masking(), number)[1]) for number in range(50)}
    assert counts <= {199, 200}
    assert masking().most_targets(1000) == 200


def test_the_rate_is_that_of_the_step_and_its_bound_that_of_the_run() -> None:
    moving = masking(rate=MaskRate(((0, 0.4), (100, 0.1))))
    counts = [len(mask_row(*row(), moving, 7, step)[1]) for step in (0, 50, 100)]
    assert counts == pytest.approx([0.4 * 998, 0.25 * 998, 0.1 * 998], abs=1)
    assert moving.most_targets(1000) == 400


@pytest.mark.parametrize("kind", ["word", "span"])
def test_units_are_masked_whole(kind: str) -> None:
    ids, maskable = row(2000)
    continues = np.arange(100) % 2 == 1
    units = MaskUnits(kind, continues, longest_span=5)
    corrupted, chosen = mask_row(ids, maskable, masking(units=units, mask_all=True), 0)
    assert len(chosen) == pytest.approx(0.2 * 1998, abs=1)
    assert (corrupted[chosen] == MASK).all()
    if kind == "word":
        before, after = chosen - 1, chosen + 1
        starts_inside = continues[ids[chosen]] & maskable[before]
        assert np.isin(before[starts_inside], chosen).all()
        inner = maskable[after]
        assert np.isin(after[inner][continues[ids[after[inner]]]], chosen).all()
    else:
        runs = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
        assert np.mean([len(run) for run in runs]) > 2


def test_a_span_shares_one_outcome() -> None:
    ids, maskable = row(4000)
    units = MaskUnits("span", longest_span=8)
    settings = masking(units=units, replace_share=0.5, random_share=0.0)
    corrupted, chosen = mask_row(ids, maskable, settings, 0)
    masked = corrupted[chosen] == MASK
    neighbours = np.diff(chosen) == 1
    assert (masked[1:] == masked[:-1])[neighbours].mean() > 0.8


def test_the_shares_of_what_replaces() -> None:
    ids, maskable = row(50_000)
    settings = masking(replace_share=0.3, random_share=0.6)
    corrupted, chosen = mask_row(ids, maskable, settings, 0)
    assert (corrupted[chosen] == MASK).mean() == pytest.approx(0.3, abs=0.02)
    assert (corrupted[chosen] == ids[chosen]).mean() == pytest.approx(0.1 + 0.6 / 95, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"mlm_schedule": {"soon": 0.3}}, "datacollator.mlm_schedule.soon: must be a step"),
        ({"mlm_schedule": {"50%": 1.3}}, "datacollator.mlm_schedule.50%=1.3: must be between"),
        ({"mlm_schedule_shape": "exp"}, "datacollator.mlm_schedule_shape=exp: must be one of"),
        ({"mask_unit": "sentence"}, "datacollator.mask_unit=sentence: must be one of"),
        ({"span_p": 0.0}, "datacollator.span_p=0.0: must be greater than 0"),
        ({"replace_share": 0.8, "random_share": 0.3}, "are 1.1 together, at most 1"),
    ],
)
def test_settings_of_masking_that_are_wrong(settings: dict[str, object], problem: str) -> None:
    assert problem in "\n".join(Config(datacollator=DataCollatorConfig(**settings)).problems())
