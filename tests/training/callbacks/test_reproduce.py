import torch

from neobert.training.callbacks.reproduce import mixed_seed


def test_seeds_depend_on_every_number_and_on_their_order() -> None:
    seeds = {mixed_seed(*numbers) for numbers in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 2)]}
    assert len(seeds) == 4


def test_a_seed_is_one_that_torch_takes() -> None:
    assert 0 <= mixed_seed(2**63 - 1, 3, 10**9) < 2**63
    torch.manual_seed(mixed_seed(0, 0, 0))


def test_seeds_do_not_change_between_versions() -> None:
    assert mixed_seed(0, 0, 0) == mixed_seed(0, 0, 0)
    assert mixed_seed(0, 0, 0) == 7896617691693857887
