import pytest
import torch
from torch.testing import assert_close

from neobert.ops.norm import plain_rms_norm, rms_norm, unit_norm


@pytest.mark.parametrize("norm", [rms_norm, plain_rms_norm])
def test_rms_norm_is_its_formula(norm) -> None:
    x, weight = torch.randn(3, 8, dtype=torch.float64).float(), torch.randn(8)
    expected = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * weight
    assert_close(norm(x, weight, 0.1), expected)


@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 3, 8)])
def test_both_ways_agree_in_values_and_gradients(shape) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    factors = torch.randn(shape, dtype=torch.float64)
    found = []
    for norm in (rms_norm, plain_rms_norm):
        out = norm(x, weight, 0.1)
        found.append((out, *torch.autograd.grad((out * factors).sum(), (x, weight))))
    assert_close(*found)


def test_both_ways_agree_in_bf16() -> None:
    x = torch.randn(64, 32, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(32, requires_grad=True)
    found = []
    for norm in (rms_norm, plain_rms_norm):
        out = norm(x, weight, 1e-5)
        assert out.dtype == torch.bfloat16
        d_x, d_weight = torch.autograd.grad(out.float().square().sum(), (x, weight))
        assert (d_x.dtype, d_weight.dtype) == (torch.bfloat16, torch.float32)
        found.append((out, d_x, d_weight))
    for ours, theirs in zip(*found, strict=True):
        largest = theirs.abs().max()
        # bf16 keeps 8 bits, and the two round in different places.
        assert_close(ours / largest, theirs / largest, atol=0.02, rtol=0)


def test_a_weight_that_is_not_trained_is_left_alone() -> None:
    x, weight = torch.randn(3, 8, requires_grad=True), torch.ones(8)
    rms_norm(x, weight, 0.1).sum().backward()
    assert weight.grad is None
    assert x.grad is not None


def test_rms_norm_keeps_the_type_and_counts_in_fp32() -> None:
    # Squares of 300 overflow fp16.
    x = torch.full((1, 4), 300.0).half()
    assert_close(rms_norm(x, torch.ones(4), 1e-6), torch.ones(1, 4).half())


def test_unit_norm_has_length_one() -> None:
    x = unit_norm(torch.randn(5, 7))
    assert_close(x.norm(dim=-1), torch.ones(5))
    assert not unit_norm(torch.zeros(1, 7)).any()
