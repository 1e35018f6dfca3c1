"""The chunked cross-entropy is PyTorch's, in values and gradients, whatever the chunk."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from neobert.batch import IGNORE
from neobert.ops.cross_entropy import linear_cross_entropy

from .conftest import PeakBytes

K, E, V = 11, 6, 17


def problem(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    hidden = torch.randn(K, E, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, E, dtype=dtype, requires_grad=True)
    labels = torch.randint(V, (K,))
    labels[[2, 10]] = IGNORE
    return hidden, weight, labels


@pytest.mark.parametrize("chunk_size", [1, 4, 11, 100])
def test_values_and_gradients_are_pytorchs(chunk_size) -> None:
    hidden, weight, labels = problem()
    expected = F.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    total, correct = linear_cross_entropy(hidden, weight, labels, chunk_size)
    assert_close(total, expected)
    assert correct == ((hidden @ weight.T).argmax(-1) == labels).sum()
    # A factor, as the division by the number of targets is one.
    ours = torch.autograd.grad(total * 0.37, (hidden, weight))
    assert_close(ours, torch.autograd.grad(expected * 0.37, (hidden, weight)))


def test_without_gradients_the_values_are_the_same() -> None:
    hidden, weight, labels = problem()
    trained = linear_cross_entropy(hidden, weight, labels, 4)
    with torch.no_grad():
        assert_close(linear_cross_entropy(hidden, weight, labels, 4), trained)


def test_nothing_to_predict_is_zero_with_a_gradient() -> None:
    hidden, weight, _ = problem()
    for rows, labels in ((hidden[:0], []), (hidden, [IGNORE] * K)):
        total, correct = linear_cross_entropy(rows, weight, torch.tensor(labels).long())
        assert total == 0
        assert correct == 0
        gradients = torch.autograd.grad(total, (hidden, weight))
        assert not any(gradient.any() for gradient in gradients)


def test_a_weight_used_twice_gets_both_gradients() -> None:
    """Tied: the embedding makes the hidden states and is the decoder."""
    _, weight, labels = problem()
    ids = torch.randint(V, (K,))

    def loss(ours: bool) -> torch.Tensor:
        hidden = weight[ids].tanh()
        if ours:
            return linear_cross_entropy(hidden, weight, labels, 4)[0]
        return F.cross_entropy(hidden @ weight.T, labels, reduction="sum")

    assert_close(*(torch.autograd.grad(loss(ours), weight) for ours in (True, False)))


def test_bf16_products_sum_in_fp32() -> None:
    hidden, weight, labels = problem(torch.float32)
    exact, _ = linear_cross_entropy(hidden, weight, labels)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = linear_cross_entropy(hidden, weight, labels)
    assert total.dtype == torch.float32
    # Logits up to 5, rounded to 8 bits, eleven of them.
    assert_close(total, exact, atol=0.2, rtol=0)
    gradients = torch.autograd.grad(total, (hidden, weight))
    for ours, full in zip(gradients, torch.autograd.grad(exact, (hidden, weight)), strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, full, atol=0.06, rtol=0.05)


def test_one_chunk_of_logits_exists_at_a_time(peak_bytes: PeakBytes) -> None:
    words, chunk = 4000, 128

    def run(rows: int) -> None:
        hidden = torch.randn(rows, 4, requires_grad=True)
        weight = torch.randn(words, 4, requires_grad=True)
        labels = torch.randint(words, (rows,))
        linear_cross_entropy(hidden, weight, labels, chunk)[0].backward()

    one, many = peak_bytes(lambda: run(chunk)), peak_bytes(lambda: run(8 * chunk))
    assert many < one + 4 * words * chunk // 4  # with the chunk before alive: twice as many


def test_a_large_vocabulary_makes_chunks_smaller(
    peak_bytes: PeakBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neobert.ops.cross_entropy.CHUNK_LOGITS", 1 << 18)
    words, rows = 1 << 14, 512
    hidden, labels = torch.randn(rows, 1), torch.randint(words, (rows,))
    weight = torch.randn(words, 1)
    assert peak_bytes(lambda: linear_cross_entropy(hidden, weight, labels)) < 3 * 4 * (1 << 18)


def test_memory_is_bounded_by_the_chunk() -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    rows, width, words, chunk = 64, 4, 500, 8
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(words, width, requires_grad=True)
    with Watch():
        linear_cross_entropy(hidden, weight, torch.randint(words, (rows,)), chunk)[0].backward()
    assert largest == chunk * words
