import pytest
import torch
from torch.testing import assert_close

from neobert.batch import IGNORE
from neobert.losses.mlm import full_logits_loss, masked_lm_loss

T, E, V = 12, 5, 9


def masked_loss(hidden, weight, positions, labels, decoder_bias=None):
    return masked_lm_loss(hidden[positions], weight, labels, decoder_bias)


def problem() -> tuple[torch.Tensor, ...]:
    hidden = torch.randn(T, E, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, E, dtype=torch.float64, requires_grad=True)
    # The filler points at position 0, which has a label of its own.
    positions = torch.tensor([0, 3, 7, 8, 0])
    labels = torch.tensor([4, 0, 8, 2, IGNORE])
    return hidden, weight, positions, labels


def test_both_losses_are_one_in_values_and_gradients() -> None:
    hidden, weight, positions, labels = problem()
    masked = masked_loss(hidden, weight, positions, labels)
    full = full_logits_loss(hidden, weight, positions, labels)
    assert_close(masked.sum, full.sum)
    assert masked.correct == full.correct
    assert masked.count == full.count == 4
    assert_close(
        torch.autograd.grad(masked.sum, (hidden, weight)),
        torch.autograd.grad(full.sum, (hidden, weight)),
    )


def test_the_sum_is_of_minus_log_probabilities() -> None:
    hidden, weight, positions, labels = problem()
    probabilities = (hidden @ weight.T).softmax(-1)
    expected = -sum(probabilities[p, t].log() for p, t in zip(positions[:4], labels, strict=False))
    assert_close(masked_loss(hidden, weight, positions, labels).sum, expected)


@pytest.mark.parametrize("loss", [masked_loss, full_logits_loss])
def test_a_decoder_bias_shifts_the_logits(loss) -> None:
    hidden, weight, positions, labels = problem()
    bias = torch.zeros(V, dtype=torch.float64, requires_grad=True)
    assert_close(
        loss(hidden, weight, positions, labels, decoder_bias=bias).sum,
        loss(hidden, weight, positions, labels).sum,
    )
    # Any label a thousand nats ahead is certain.
    sure = bias.detach().clone()
    sure[labels[0]] = 1000
    assert loss(hidden, weight, positions[:1], labels[:1], decoder_bias=sure).sum < 1e-6


def test_the_gradient_of_the_bias_is_that_of_the_full_logits() -> None:
    hidden, weight, positions, labels = problem()
    bias = torch.randn(V, dtype=torch.float64, requires_grad=True)
    losses = (
        loss(hidden, weight, positions, labels, decoder_bias=bias).sum
        for loss in (masked_loss, full_logits_loss)
    )
    assert_close(*(torch.autograd.grad(loss, (hidden, weight, bias)) for loss in losses))


def test_without_targets_the_loss_is_zero_and_has_a_gradient() -> None:
    hidden, weight, _, _ = problem()
    nothing = torch.zeros(0, dtype=torch.int64)
    for loss in (masked_loss, full_logits_loss):
        result = loss(hidden, weight, nothing, nothing)
        assert result.sum == 0
        assert result.count == 0
        result.sum.backward()
        assert not hidden.grad.any()
        assert not weight.grad.any()
