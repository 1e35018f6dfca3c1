"""Bidirectional attention within documents that lie end to end.

Four ways with one meaning, ``softmax(scale * q k^T) v`` among the tokens of each document:

* ``documents``: documents of similar length together, the fast way on a CPU
  (:mod:`neobert.ops.document_attention`).
* ``dense``: PyTorch's SDPA under a block-diagonal mask; runs anywhere and is the reference.
* ``flash_attn``, ``torch_varlen``: kernels for packed sequences on a GPU
  (:mod:`neobert.ops.varlen_attention`).

:func:`neobert.ops.kernels.resolve_attention` chooses.

Letters: T tokens, H heads, D width of a head, S documents, R rows and L width of a rectangle.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from neobert.batch import PackedBatch
from neobert.ops.document_attention import document_attention, document_max_logits
from neobert.ops.kernels import AttentionKernel
from neobert.ops.varlen_attention import flash_attention, torch_varlen_attention


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
    """Present where ``kernel`` or the record of logits works on rows."""

    @property
    def rows(self) -> Rectangle:
        """The rectangle, for those who work on it."""
        assert self.rectangle is not None, f"{self.kernel} was laid out without rows"
        return self.rectangle


def lay_out(batch: PackedBatch, kernel: AttentionKernel, pad_token_id: int, record: bool) -> Layout:
    """Prepare what ``kernel`` needs to know about the documents of ``batch``.

    ``record``: whether :func:`max_attention_logits` will be requested.
    """
    rectangle = None
    if kernel == "dense" or (record and kernel != "documents"):
        rectangle = _packed_rectangle(batch) if batch.row_length else _padded_rectangle(batch)
    is_text = batch.input_ids != pad_token_id
    return Layout(kernel, batch.cu_seqlens, batch.max_seqlen, is_text, rectangle)


def document_of_token(batch: PackedBatch) -> Int[Tensor, " T"]:
    """Number of the document that each token belongs to. Needs no copy to the host."""
    numbers = torch.arange(len(batch.cu_seqlens) - 1, device=batch.cu_seqlens.device)
    return numbers.repeat_interleave(batch.lengths, output_size=len(batch.input_ids))


def _packed_rectangle(batch: PackedBatch) -> Rectangle:
    document = document_of_token(batch).view(-1, batch.row_length or 1)  # (R, L)
    return Rectangle((document[:, :, None] == document[:, None, :])[:, None], None, None)


def _padded_rectangle(batch: PackedBatch) -> Rectangle:
    """One document per row, padded to the longest by repeating its last token."""
    starts, lengths = batch.cu_seqlens[:-1].long(), batch.lengths.long()
    column = torch.arange(batch.max_seqlen, device=starts.device)
    index = starts[:, None] + column.minimum((lengths - 1).clamp(min=0)[:, None])  # (S, L)
    inverse = document_of_token(batch) * batch.max_seqlen + batch.position_ids
    # An empty document keeps one place, or its row of softmax would be all NaN.
    filled = column < lengths.clamp(min=1)[:, None]
    return Rectangle(filled[:, None, None], index.clamp(max=len(batch.input_ids) - 1), inverse)


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
    return dense_attention(q, k, v, layout.rows, scale, dropout)


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
    rectangle = layout.rows
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
