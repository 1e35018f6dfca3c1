"""Bidirectional attention within documents that lie end to end.

Four ways with one meaning, ``softmax(scale * q k^T) v`` among the tokens of each document:

* ``documents``: documents of similar length together, the fast way on a CPU
  (:mod:`neobert.ops.document_attention`).
* ``dense``: PyTorch's SDPA under a block-diagonal mask; runs anywhere and is the reference.
* ``flash_attn``, ``torch_varlen``: kernels for packed sequences on a GPU, of the flash-attn package
  or PyTorch's own.

:func:`neobert.ops.kernels.resolve_attention` chooses.

Letters: T tokens, H heads, D width of a head, S documents, R rows and L width of a rectangle.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from neobert.batch import PackedBatch
from neobert.ops.document_attention import document_attention, document_max_logits
from neobert.ops.kernels import AttentionKernel


@dataclass(frozen=True, slots=True)
class Rectangle:
    """The tokens of a batch as R rows of L, for kernels that know nothing of documents."""

    mask: Bool[Tensor, "R one query L"]
    """True where a query may see a key; ``query`` is L, or 1 where it is the same for all."""

    index: Int[Tensor, "R L"] | None
    """Token that stands at each place; ``None`` where tokens fill the rows in order."""

    inverse: Int[Tensor, " T"] | None
    """Place of each token; ``None`` like ``index``."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the documents of a batch lie. Made once per batch, used by every layer."""

    kernel: AttentionKernel
    cu_seqlens: Int[Tensor, " bounds"]
    max_seqlen: int
    is_text: Bool[Tensor, " T"]
    """False at pad ids, whose logits are of no interest."""

    rectangle: Rectangle | None
    """Present where ``kernel`` works on rows."""

    row_length: int | None
    """Length of a packed row; ``None`` for unpacked batches."""


def lay_out(batch: PackedBatch, kernel: AttentionKernel, pad_token_id: int) -> Layout:
    """Prepare what ``kernel`` needs to know about the documents of ``batch``."""
    is_text = batch.input_ids != pad_token_id
    plain = Layout(kernel, batch.cu_seqlens, batch.max_seqlen, is_text, None, batch.row_length)
    return replace(plain, rectangle=_rectangle(plain)) if kernel == "dense" else plain


def document_of_token(cu_seqlens: Int[Tensor, " bounds"], tokens: int) -> Int[Tensor, " T"]:
    """Number of the document that each of T = ``tokens`` belongs to. Needs no copy to the host."""
    numbers = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    return numbers.repeat_interleave(cu_seqlens.diff(), output_size=tokens)


def _rectangle(layout: Layout) -> Rectangle:
    if layout.row_length is None:
        return _padded_rectangle(layout)
    document = document_of_token(layout.cu_seqlens, len(layout.is_text))
    document = document.view(-1, layout.row_length)  # (R, L)
    return Rectangle((document[:, :, None] == document[:, None, :])[:, None], None, None)


def _padded_rectangle(layout: Layout) -> Rectangle:
    """One document per row, padded to the longest by repeating its last token."""
    starts, lengths = layout.cu_seqlens[:-1].long(), layout.cu_seqlens.diff().long()
    column = torch.arange(layout.max_seqlen, device=starts.device)
    index = starts[:, None] + column.minimum((lengths - 1).clamp(min=0)[:, None])  # (S, L)
    tokens = torch.arange(len(layout.is_text), device=starts.device)
    document = document_of_token(layout.cu_seqlens, len(tokens))
    inverse = document * layout.max_seqlen + tokens - starts[document]
    # An empty document keeps one place, or its row of softmax would be all NaN.
    filled = column < lengths.clamp(min=1)[:, None]
    return Rectangle(filled[:, None, None], index.clamp(max=len(tokens) - 1), inverse)


def attend(
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    v: Float[Tensor, "T H D"],
    layout: Layout,
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "T H D"]:
    """Attend within each document; ``dropout`` is the probability of losing a weight."""
    bounds, longest = layout.cu_seqlens, layout.max_seqlen
    if layout.kernel == "documents":
        return document_attention(q, k, v, bounds, scale, dropout)
    if layout.kernel == "flash_attn":
        return flash_attention(q, k, v, bounds, longest, scale, dropout)
    if layout.kernel == "torch_varlen":
        return torch_varlen_attention(q, k, v, bounds, longest, scale)
    assert layout.rectangle is not None, f"{layout.kernel} was laid out without rows"
    return dense_attention(q, k, v, layout.rectangle, scale, dropout)


def max_attention_logits(
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    layout: Layout,
    scale: float,
    chunk_size: int,
) -> Float[Tensor, " H"]:
    """Largest ``scale * q k^T`` of each head within documents of text, fp32.

    ``chunk_size`` queries of each row at a time. Stays on the device.
    """
    if layout.kernel == "documents":
        return document_max_logits(q, k, layout.cu_seqlens, layout.is_text, scale, chunk_size)
    rectangle = layout.rectangle or _rectangle(layout)
    q_rows, k_rows = _to_rows(q, rectangle), _to_rows(k, rectangle)  # (R, H, L, D)
    text = _to_rows(layout.is_text[:, None, None], rectangle)[..., 0]  # (R, 1, L)
    seen = rectangle.mask & text[:, :, None]  # (R, 1, query, L)
    best = torch.full((q.shape[1],), -torch.inf, device=q.device)
    for start in range(0, q_rows.shape[2], chunk_size):
        queries = slice(start, start + chunk_size)
        logits = q_rows[:, :, queries] @ k_rows.transpose(-1, -2)  # (R, H, chunk, L)
        visible = seen[:, :, queries] if seen.shape[2] > 1 else seen
        best = torch.maximum(
            best, (logits.float() * scale).where(visible, -torch.inf).amax((0, 2, 3))
        )
    return best


def raised_max_logits(  # noqa: PLR0913, PLR0917  what the operator takes
    best: Float[Tensor, " H"],
    recording: Bool[Tensor, ""],
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    layout: Layout,
    scale: float,
    chunk_size: int,
) -> Float[Tensor, " H"]:
    """``best``, raised to :func:`max_attention_logits` if ``recording``, which is on the CPU.

    One opaque operator: a compiled graph has it in it, and serves steps that record and steps that
    do not.
    """
    of_rows = layout.kernel != "documents"
    # Unpacked, the length of the rows varies; documents are measured without it.
    longest = layout.max_seqlen if of_rows else 0
    row_length = (layout.row_length or 0) if of_rows else 0
    if layout.rectangle is not None:
        longest = layout.rectangle.mask.shape[-1]  # declared to vary where it does
    bounds, is_text = layout.cu_seqlens, layout.is_text
    shape = of_rows, longest, row_length
    return _raised(best, recording, q, k, bounds, is_text, *shape, scale, chunk_size)


@torch.library.custom_op(
    "neobert::raised_max_logits",
    mutates_args=(),
    schema="(Tensor best, Tensor recording, Tensor q, Tensor k, Tensor cu_seqlens, Tensor is_text, "
    "bool of_rows, SymInt longest, SymInt row_length, float scale, int chunk_size) -> Tensor",
)
def _raised(  # noqa: PLR0913, PLR0917  an operator takes tensors and numbers, no objects
    best: Tensor,
    recording: Tensor,
    q: Tensor,
    k: Tensor,
    cu_seqlens: Tensor,
    is_text: Tensor,
    of_rows: bool,
    longest: int,
    row_length: int,
    scale: float,
    chunk_size: int,
) -> Tensor:
    if not recording:
        return best.clone()
    kernel: AttentionKernel = "dense" if of_rows else "documents"
    layout = Layout(kernel, cu_seqlens, longest, is_text, None, row_length or None)
    return torch.maximum(best, max_attention_logits(q, k, layout, scale, chunk_size))


@_raised.register_fake
def _(best: Tensor, *_: object) -> Tensor:
    return torch.empty_like(best)


def _to_rows(x: Shaped[Tensor, "T H D"], rectangle: Rectangle) -> Shaped[Tensor, "R H L D"]:
    width = rectangle.mask.shape[-1]
    rows = x.unflatten(0, (-1, width)) if rectangle.index is None else x[rectangle.index]
    return rows.transpose(1, 2)


def dense_attention(
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    v: Float[Tensor, "T H D"],
    rectangle: Rectangle,
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "T H D"]:
    """SDPA over rows of L tokens: work and memory grow with L, however short the documents."""
    out = F.scaled_dot_product_attention(
        _to_rows(q, rectangle),
        _to_rows(k, rectangle),
        _to_rows(v, rectangle),
        attn_mask=rectangle.mask,
        dropout_p=dropout,
        scale=scale,
    )  # (R, H, L, D)
    out = out.transpose(1, 2).flatten(0, 1)  # (R L, H, D)
    return out if rectangle.inverse is None else out[rectangle.inverse]


def flash_attention(  # noqa: PLR0913, PLR0917  the signature all ways of attending share
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    v: Float[Tensor, "T H D"],
    cu_seqlens: Int[Tensor, " bounds"],
    max_seqlen: int,
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "T H D"]:
    """Attend by ``flash_attn_varlen_func`` (arXiv 2307.08691); bf16 or fp16 on CUDA."""
    from flash_attn import flash_attn_varlen_func  # optional package

    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout, softmax_scale=scale
    )


def torch_varlen_attention(
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    v: Float[Tensor, "T H D"],
    cu_seqlens: Int[Tensor, " bounds"],
    max_seqlen: int,
    scale: float,
) -> Float[Tensor, "T H D"]:
    """Attend by ``torch.nn.attention.varlen``; bf16 or fp16 on CUDA, no dropout."""
    from torch.nn.attention.varlen import varlen_attn  # not in every build of PyTorch

    # The keyword for another scale than 1 / sqrt(D) is not in every version that has the function.
    q = q * (scale * q.shape[-1] ** 0.5)
    out = varlen_attn(
        query=q,
        key=k,
        value=v,
        cu_seq_q=cu_seqlens,
        cu_seq_k=cu_seqlens,
        max_q=max_seqlen,
        max_k=max_seqlen,
    )
    assert isinstance(out, Tensor)  # a pair only where auxiliary outputs were requested
    return out
