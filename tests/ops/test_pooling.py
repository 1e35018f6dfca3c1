"""Pooling of packed documents against one document at a time, values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from neobert.ops.pooling import pool

LENGTHS = [3, 1, 5, 2]
BOUNDS = torch.tensor([0, 3, 4, 9, 11], dtype=torch.int32)


def reference(hidden: Tensor, lengths: list[int], how: str) -> Tensor:
    """One document at a time."""
    documents = hidden.split(lengths)
    match how:
        case "avg":
            return torch.stack([one.mean(0) for one in documents])
        case "cls":
            return torch.stack([one[0] for one in documents])
        case _:
            return torch.stack([one.max(0).values for one in documents])


@pytest.mark.parametrize("how", ["avg", "cls", "max"])
def test_pooling_is_that_of_each_document_alone(how):
    hidden = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 6, dtype=torch.float64)
    found = pool(hidden, BOUNDS, how)
    expected = reference(hidden, LENGTHS, how)
    assert_close(found, expected)
    (gradient,) = torch.autograd.grad((found * weight).sum(), hidden)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), hidden)
    assert_close(gradient, wanted)


@pytest.mark.parametrize("how", ["avg", "cls", "max"])
def test_an_empty_document_is_zeros_and_shifts_no_other(how):
    hidden = -torch.rand(4, 3) - 1  # all below 0: a zero that took part in `max` would show
    bounds = torch.tensor([0, 0, 2, 2, 4, 4], dtype=torch.int32)
    found = pool(hidden, bounds, how)
    assert_close(found[[0, 2, 4]], torch.zeros(3, 3))
    assert_close(found[[1, 3]], reference(hidden, [2, 2], how))


@pytest.mark.parametrize("how", ["avg", "cls", "max"])
def test_no_documents_give_no_vectors(how):
    assert pool(torch.zeros(0, 3), torch.zeros(1, dtype=torch.int32), how).shape == (0, 3)


def test_a_mean_of_bf16_tokens_is_taken_in_fp32():
    hidden = torch.full((4096, 1), 1.0, dtype=torch.bfloat16)
    hidden[0] = 4096.0  # a bf16 sum would lose every 1 after it
    found = pool(hidden, torch.tensor([0, 4096], dtype=torch.int32), "avg")
    assert found.dtype == torch.float32
    assert_close(found, torch.tensor([[(4096 + 4095) / 4096]]))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="must be avg, cls or max"):
        pool(torch.zeros(1, 1), torch.tensor([0, 1], dtype=torch.int32), "median")
