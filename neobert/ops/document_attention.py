"""Attention of packed documents on a CPU: explicit products, one document after the other.

A document of n tokens costs n^2 scores and nothing else, where a dense mask costs the square of its
row. Neighbours of equal length are computed together, since the calls of a short document cost more
than its products; batches sorted by length consist of them. Both passes are one opaque operator
each, so ``torch.compile`` neither unrolls the loop nor recompiles when documents change. The
weights are recomputed in the backward pass: kept, they would be the largest thing in memory.

Letters: T tokens, H heads, D width of a head, n tokens of one document, B = H times the documents
that are computed together.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neobert.ops.kernels import cpu_has_bf16

TOGETHER = 2**14
"""Weights of attention that are computed together at most: 64 KiB in fp32, in a core's own cache.

Measured: texts of 8 to 13 tokens take half the time of one after the other, of 24 a fifth less;
from 40 tokens on nothing is gained, and with 1 MiB some is lost."""


def document_attention(
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    v: Float[Tensor, "T H D"],
    cu_seqlens: Int[Tensor, " bounds"],
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "T H D"]:
    """``dropout(softmax(scale * q k^T)) v`` within each document."""
    # A seed from PyTorch's own stream: the backward pass draws the same mask again from it, and so
    # does a recomputation under gradient checkpointing, which rewinds that stream.
    seed = torch.randint(2**31 - 1, ()) if dropout else torch.zeros((), dtype=torch.int64)
    return _attend(q, k, v, cu_seqlens, seed, scale, dropout)


def document_max_logits(
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    cu_seqlens: Int[Tensor, " bounds"],
    is_text: Bool[Tensor, " T"],
    scale: float,
    chunk_size: int,
) -> Float[Tensor, " H"]:
    """Largest ``scale * q k^T`` of each head within documents of text, fp32; ``-inf`` if none."""
    return _max_logits(q, k, cu_seqlens, is_text, scale, chunk_size)


@torch.library.custom_op(
    "neobert::document_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, Tensor seed, float scale, "
    "float dropout) -> Tensor",
)
def _attend(  # noqa: PLR0913, PLR0917  an operator takes tensors and numbers, no objects
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, seed: Tensor, scale: float, dropout: float
) -> Tensor:
    out = torch.empty_like(v, memory_format=torch.contiguous_format)
    lengths, compute = cu_seqlens.diff().tolist(), _compute_type(q.dtype)
    generator = _generator(seed, dropout)
    inputs = (q * scale).to(compute), k.to(compute), v.to(compute)
    for (q_n, k_n, v_n), (out_n,) in _runs(lengths, inputs, [out]):
        weights = _weights(q_n, k_n)  # (B, n, n)
        if generator is not None:
            weights *= _kept(weights, dropout, generator)
        _put(out_n, torch.bmm(weights, v_n))
    return out


@torch.library.custom_op(
    "neobert::document_attention_backward",
    mutates_args=(),
    schema="(Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, Tensor seed, "
    "float scale, float dropout) -> (Tensor, Tensor, Tensor)",
)
def _attend_backward(  # noqa: PLR0913, PLR0917
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    seed: Tensor,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    lengths, compute = cu_seqlens.diff().tolist(), _compute_type(q.dtype)
    inputs = (q * scale).to(compute), k.to(compute), v.to(compute), d_out.to(compute)
    generator = _generator(seed, dropout)
    for (q_n, k_n, v_n, d_out_n), gradients in _runs(lengths, inputs, [dq, dk, dv]):
        dq_n, dk_n, dv_n = gradients
        weights = _weights(q_n, k_n)
        d_weights = torch.bmm(d_out_n, v_n.mT)  # (B, n, n)
        used = weights
        if generator is not None:
            kept = _kept(weights, dropout, generator)
            used, d_weights = weights * kept, d_weights * kept
        _put(dv_n, torch.bmm(used.mT, d_out_n))
        d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, compute)
        _put(dq_n, torch.bmm(d_scores, k_n))
        _put(dk_n, torch.bmm(d_scores.mT, q_n))
    return dq.mul_(scale), dk, dv


@torch.library.custom_op(
    "neobert::document_max_logits",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor cu_seqlens, Tensor is_text, float scale, int chunk_size) "
    "-> Tensor",
)
def _max_logits(
    q: Tensor, k: Tensor, cu_seqlens: Tensor, is_text: Tensor, scale: float, chunk_size: int
) -> Tensor:
    compute = _compute_type(q.dtype)
    lengths, texts = cu_seqlens.diff().tolist(), is_text[:, None, None]
    best = torch.full((q.shape[1],), -torch.inf, dtype=compute)
    for q_n, k_n, text in _documents(lengths, q.to(compute), k.to(compute), texts):
        if not text[0, 0, 0]:
            continue  # the pad document at the end of a packed row
        for queries in q_n.split(chunk_size, dim=1):
            logits = torch.bmm(queries, k_n.mT)  # (H, chunk, n)
            best = torch.maximum(best, logits.amax((1, 2)))
    return (best * scale).float()


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *tensors, scale, dropout = inputs
    ctx.save_for_backward(*tensors)
    ctx.scale, ctx.dropout = scale, dropout  # type: ignore[attr-defined]


def _gradients(ctx: torch.autograd.function.FunctionCtx, d_out: Tensor) -> tuple:
    tensors, scale, dropout = ctx.saved_tensors, ctx.scale, ctx.dropout  # type: ignore[attr-defined]
    return *_attend_backward(d_out, *tensors, scale, dropout), None, None, None, None


_attend.register_autograd(_gradients, setup_context=_save)


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


@_attend_backward.register_fake
def _(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    return dq, dk, dv


@_max_logits.register_fake
def _(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape[1], dtype=torch.float32)


def _documents(lengths: list[int], *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of each document that has any tokens: (T, H, D) -> (H, n, D), once per tensor."""
    parts = [tensor.transpose(0, 1).split(lengths, dim=1) for tensor in tensors]
    return (views for views in zip(*parts, strict=True) if views[0].shape[1])


def _runs(
    lengths: list[int], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> Iterator[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Neighbours of equal length: ``inputs`` as (B, n, D), ``outputs`` as views for :func:`_put`.

    Of a document alone all are views; of several the inputs are copies, which cost little for texts
    so short that several are computed together.
    """
    runs = _run_lengths(lengths, inputs[0].shape[1])
    sizes = [number * length for number, length in runs]
    given, made = (
        zip(*(tensor.transpose(0, 1).split(sizes, dim=1) for tensor in tensors), strict=True)
        for tensors in (inputs, outputs)
    )
    for (number, length), these, those in zip(runs, given, made, strict=True):
        if number == 1:
            yield these, those
            continue
        shape = (number, length)  # (H, number n, D) -> (H, number, n, D)
        together = tuple(view.unflatten(1, shape).flatten(0, 1) for view in these)
        yield together, tuple(view.unflatten(1, shape) for view in those)


def _run_lengths(lengths: list[int], heads: int) -> list[tuple[int, int]]:
    """(how many documents, of which length) to compute together; empty documents are left out."""
    runs = []
    for length, equal in groupby(lengths):
        left = len(list(equal)) if length else 0
        most = max(1, TOGETHER // (heads * length**2)) if length else 1
        runs += [(min(most, left - done), length) for done in range(0, left, most)]
    return runs


def _put(place: Tensor, values: Tensor) -> None:
    """Write (B, n, D) to a view of the documents it belongs to."""
    place.copy_(values if place.ndim == values.ndim else values.view(place.shape))


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """Softmax of the scores, (B, n, D) twice -> (B, n, n)."""
    return torch.softmax(torch.bmm(q, k.mT), dim=-1)


def _generator(seed: Tensor, dropout: float) -> torch.Generator | None:
    return torch.Generator().manual_seed(int(seed)) if dropout else None


def _kept(weights: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Dropout's factors: 0, or 1 / (1 - p) so that the mean stays."""
    keep = 1 - dropout
    return torch.empty_like(weights).bernoulli_(keep, generator=generator).div_(keep or 1.0)


def _compute_type(dtype: torch.dtype) -> torch.dtype:
    """fp32 for half precision that this CPU does not multiply in hardware: ten times as fast."""
    if dtype == torch.float16 or (dtype == torch.bfloat16 and not cpu_has_bf16()):
        return torch.float32
    return dtype
