"""Losses of fine-tuning against their definitions."""

import torch
from torch.testing import assert_close

from neobert.losses.classification import classification_loss, regression_loss


def test_cross_entropy_is_summed() -> None:
    scores = torch.randn(5, 3, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1, 0])
    expected = -sum(scores[row].log_softmax(0)[label] for row, label in enumerate(labels.tolist()))
    assert_close(classification_loss(scores, labels), expected)


def test_squared_error_is_summed() -> None:
    scores = torch.tensor([[1.0], [2.0], [4.0]])
    assert float(regression_loss(scores, torch.tensor([1.0, 0.0, 1.0]))) == 13.0


def test_half_precision_is_summed_in_fp32() -> None:
    scores = torch.randn(4, 2).bfloat16()
    assert classification_loss(scores, torch.tensor([0, 1, 0, 1])).dtype == torch.float32
    assert regression_loss(scores[:, :1], torch.zeros(4)).dtype == torch.float32


def test_no_document_has_a_gradient_of_zeros() -> None:
    scores = torch.randn(1, 2, requires_grad=True)
    classification_loss(scores[:0], torch.zeros(0, dtype=torch.int64)).backward()
    assert_close(scores.grad, torch.zeros(1, 2))
    other = torch.randn(1, 1, requires_grad=True)
    regression_loss(other[:0], torch.zeros(0)).backward()
    assert_close(other.grad, torch.zeros(1, 1))
