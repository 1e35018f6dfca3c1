import torch
from torch.testing import assert_close

from neobert.ops.norm import rms_norm, unit_norm


def test_rms_norm_is_its_formula() -> None:
    x, weight = torch.randn(3, 8, dtype=torch.float64).float(), torch.randn(8)
    expected = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * weight
    assert_close(rms_norm(x, weight, 0.1), expected)


def test_rms_norm_keeps_the_type_and_counts_in_fp32() -> None:
    # Squares of 300 overflow fp16.
    x = torch.full((1, 4), 300.0).half()
    assert_close(rms_norm(x, torch.ones(4), 1e-6), torch.ones(1, 4).half())


def test_unit_norm_has_length_one() -> None:
    x = unit_norm(torch.randn(5, 7))
    assert_close(x.norm(dim=-1), torch.ones(5))
    assert not unit_norm(torch.zeros(1, 7)).any()
