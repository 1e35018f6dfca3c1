"""Every way to attend within documents agrees with softmax attention written out."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from neobert.batch import PackedBatch, bounds_of, positions_within
from neobert.ops import document_attention
from neobert.ops.attention import attend, document_of_token, lay_out, max_attention_logits
from neobert.ops.document_attention import SIMILAR, TOGETHER, _group_bounds

from .conftest import PeakBytes

SCALE = 0.3
KERNELS = ("documents", "dense")
# Length 1, a whole row, an ordinary row, and one whose slack is a document of pad ids.
ROWS = [[1, 4, 3], [8], [5, 3], [2, 5, 1]]
PAD_LENGTH = 1


def packed(rows: list[list[int]]) -> PackedBatch:
    lengths = torch.tensor([length for row in rows for length in row])
    total = int(lengths.sum())
    input_ids = torch.arange(1, total + 1)
    input_ids[total - PAD_LENGTH :] = 0
    return PackedBatch(
        input_ids=input_ids,
        position_ids=positions_within(lengths),
        cu_seqlens=bounds_of(lengths),
        max_seqlen=sum(rows[0]),
        num_tokens=total - PAD_LENGTH,
        row_length=sum(rows[0]),
    )


def unpacked(lengths: list[int]) -> PackedBatch:
    return PackedBatch.from_documents([list(range(1, length + 1)) for length in lengths])


BATCHES = {
    "packed": packed(ROWS),
    "unpacked": unpacked([3, 1, 7]),
    "with an empty document": unpacked([3, 0, 7]),
    "one token": unpacked([1]),
    "many of equal and of similar length": unpacked([4, 2, 8, 2, 7, 5, 0, 0, 1, 1, 6, 8, 3]),
}


@pytest.fixture(params=BATCHES.values(), ids=BATCHES.keys())
def batch(request) -> PackedBatch:
    return request.param


def reference(q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch) -> Tensor:
    """One document and one head at a time."""
    out, start = torch.empty_like(q), 0
    for length in batch.lengths.tolist():
        for head in range(q.shape[1]):
            one = slice(start, start + length), head
            out[one] = (SCALE * q[one] @ k[one].T).softmax(-1) @ v[one]
        start += length
    return out


def inputs(batch: PackedBatch, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, v as slices of one tensor, as the fused projection makes them."""
    fused = torch.randn(len(batch.input_ids), 2, 3, 4, dtype=dtype)
    return [x.detach().requires_grad_() for x in fused.unbind(2)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_and_gradients_are_those_of_the_definition(batch, kernel) -> None:
    q, k, v = inputs(batch)
    weight = torch.randn_like(q)
    expected = reference(q, k, v, batch)
    out = attend(q, k, v, lay_out(batch, kernel, 0), SCALE)
    assert_close(out, expected)
    ours = torch.autograd.grad((out * weight).sum(), (q, k, v))
    assert_close(ours, torch.autograd.grad((expected * weight).sum(), (q, k, v)))


def test_rows_of_similar_length_are_computed_together_up_to_a_number_of_weights() -> None:
    heads, most = 2, TOGETHER // 64**2
    assert list(_group_bounds([64] * (most + 2), heads)) == [(0, most), (most, most + 2)]
    shortest = int(64 * SIMILAR)
    lengths = [64, shortest, shortest - 1, 2]
    assert list(_group_bounds(lengths, heads)) == [(0, 2), (2, 3), (3, 4)]
    assert list(_group_bounds([1024] * 4, heads)) == [(0, 2), (2, 4)]  # all heads of a document
    assert list(_group_bounds([4096] * 4, heads)) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert not list(_group_bounds([], heads))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_heads_and_queries_of_long_documents_follow_each_other(
    batch: PackedBatch, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    """As with documents of more than 2,048 tokens, but with a bound of 40 weights."""
    q, k, v = inputs(batch)
    out_weight = torch.randn_like(q)

    def run() -> tuple[Tensor, ...]:
        document_attention._plan.cache_clear()
        bounds, seed = batch.cu_seqlens, torch.tensor(5)
        out = document_attention._attend(q, k, v, bounds, seed, SCALE, dropout)
        # The derivative along a direction, by differences: dropout's masks are drawn in order.
        gradients = torch.autograd.grad((out * out_weight).sum(), (q, k, v))
        with torch.no_grad():
            moved = document_attention._attend(
                q + 1e-6 * out_weight, k, v, bounds, seed, SCALE, dropout
            )
        slope = ((moved - out) * out_weight).sum() / 1e-6
        assert_close((gradients[0] * out_weight).sum(), slope, rtol=1e-3, atol=1e-4)
        return out, *gradients

    whole = run()
    monkeypatch.setattr(document_attention, "MOST_WEIGHTS", 40)
    monkeypatch.setattr(document_attention, "TOGETHER", 20)
    parts = run()
    document_attention._plan.cache_clear()
    if not dropout:
        assert_close(parts, whole)


@pytest.mark.parametrize(("tokens", "heads"), [(1024, 12), (4096, 2)])
def test_a_long_document_takes_the_memory_of_some_heads_and_queries(
    peak_bytes: PeakBytes, tokens: int, heads: int
) -> None:
    q, k, v = (torch.randn(tokens, heads, 8).requires_grad_() for _ in range(3))
    bounds = torch.tensor([0, tokens], dtype=torch.int32)

    def run() -> None:
        document_attention.document_attention(q, k, v, bounds, SCALE).sum().backward()

    weights = 4 * document_attention.MOST_WEIGHTS  # fp32
    linear = 20 * 4 * tokens * heads * 8  # queries, keys, values, their gradients, and copies
    assert peak_bytes(run) < 5 * weights + linear  # all at once: 3.6 * 4 * heads * tokens^2


def test_both_ways_agree_in_bf16(batch) -> None:
    q, k, v = inputs(batch, torch.bfloat16)
    outs = [attend(q, k, v, lay_out(batch, kernel, 0), SCALE) for kernel in KERNELS]
    # bf16 keeps 8 bits: each of a few roundings of values up to 3 costs up to 2^-7.
    assert_close(outs[0], outs[1], atol=0.03, rtol=0.02)
    grads = [torch.autograd.grad(out.float().square().sum(), (q, k, v)) for out in outs]
    for ours, theirs in zip(*grads, strict=True):
        assert_close(ours, theirs, atol=0.1, rtol=0.05)


def test_large_scores_cost_no_more_precision_than_bf16_has() -> None:
    batch = unpacked([64] * 4)
    scales = (9.0, 9.0, 1.0)  # logits up to a hundred
    qkv = [(torch.randn(256, 2, 4) * scale).bfloat16().requires_grad_() for scale in scales]
    exact = [x.detach().double().requires_grad_() for x in qkv]
    layout, weight = lay_out(batch, "documents", 0), torch.randn(256, 2, 4)
    found = attend(*qkv, layout, SCALE)
    expected = reference(*exact, batch)
    ours = torch.autograd.grad((found * weight).sum(), qkv)
    theirs = torch.autograd.grad((expected * weight).sum(), exact)
    for mine, other in zip((found, *ours), (expected, *theirs), strict=True):
        assert (mine.double() - other).norm() < 2**-7 * other.norm()


@pytest.mark.parametrize("has_bf16", [False, True])
def test_under_autocast_products_keep_the_type_that_the_cpu_is_good_at(
    batch, monkeypatch: pytest.MonkeyPatch, has_bf16: bool
) -> None:
    monkeypatch.setattr(document_attention, "cpu_has_bf16", lambda: has_bf16)
    qkv = inputs(batch, torch.bfloat16)
    layout = lay_out(batch, "documents", 0)
    plain = attend(*qkv, layout, SCALE)
    logits = max_attention_logits(*qkv[:2], layout, SCALE, 2)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(*qkv, layout, SCALE)
        assert torch.equal(max_attention_logits(*qkv[:2], layout, SCALE, 2), logits)
    assert torch.equal(out, plain)
    exact = reference(*(x.double() for x in qkv), batch)
    # Without bf16 instructions only the result is rounded, to 8 bits.
    assert_close(
        out.double(), exact, atol=0.03 if has_bf16 else 1e-6, rtol=0.02 if has_bf16 else 2**-8
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_dropout_loses_weights_and_keeps_the_mean(kernel) -> None:
    batch = unpacked([2] * 4000)
    q = k = torch.zeros(8000, 1, 1)  # every weight is one half
    v = torch.ones(8000, 1, 1, requires_grad=True)
    out = attend(q, k, v, lay_out(batch, kernel, 0), SCALE, dropout=0.25)
    # Each output adds two weights, each 0 or 1/2 / (1 - 1/4).
    values, counts = out.detach().flatten().round(decimals=4).unique(return_counts=True)
    assert_close(values, torch.tensor([0, 2 / 3, 4 / 3]), atol=1e-4, rtol=0)
    assert_close(counts / 8000, torch.tensor([1 / 16, 6 / 16, 9 / 16]), atol=0.02, rtol=0)
    # The backward pass used the same mask: with equal values, out is linear in them.
    (gradient,) = torch.autograd.grad(out.sum(), v)
    assert_close(gradient.sum(), out.detach().sum())


def test_dropout_follows_the_seed_of_pytorch() -> None:
    batch = BATCHES["packed"]
    q, k, v = inputs(batch)
    layout = lay_out(batch, "documents", 0)
    first = attend(q, k, v, layout, SCALE, dropout=0.5)
    torch.manual_seed(7)
    second = attend(q, k, v, layout, SCALE, dropout=0.5)
    torch.manual_seed(7)
    assert_close(attend(q, k, v, layout, SCALE, dropout=0.5), second)
    assert not torch.equal(first, second)


def test_the_gradient_under_dropout_is_that_of_the_mask_drawn() -> None:
    batch = unpacked([3, 5])
    layout = lay_out(batch, "documents", 0)

    def seeded(*qkv: Tensor) -> Tensor:
        torch.manual_seed(3)
        return attend(*qkv, layout, SCALE, 0.4)

    assert torch.autograd.gradcheck(seeded, inputs(batch))


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_largest_logits_are_those_within_documents_of_text(batch, kernel, chunk_size) -> None:
    q, k, _ = (x.detach() for x in inputs(batch, torch.float32))
    layout = lay_out(batch, kernel, 0)
    document = document_of_token(batch.cu_seqlens, len(batch.input_ids))
    text = batch.input_ids != 0
    seen = (document[:, None] == document) & text & text[:, None]
    logits = SCALE * torch.einsum("qhd,khd->hqk", q, k)
    expected = logits.where(seen, -torch.inf).amax((1, 2))
    assert_close(max_attention_logits(q, k, layout, SCALE, chunk_size), expected)


def test_padding_alone_has_no_logits() -> None:
    q = torch.ones(4, 1, 2)
    batch = PackedBatch.from_documents([[0, 0, 0, 0]])
    for kernel in KERNELS:
        layout = lay_out(batch, kernel, 0)
        assert max_attention_logits(q, q, layout, 1.0, 8).item() == -torch.inf
