"""Attention of packed documents on a CPU: explicit products of documents of similar length.

A document of n tokens costs n^2 scores and little else, where a dense mask costs the square of its
row. The calls of a short document cost more than its products, so documents are sorted by length,
each head of each is one row, and rows of similar length are padded to the longest and computed
together. Both passes are one opaque operator each, so ``torch.compile`` neither unrolls the loop
nor recompiles when documents change. The weights are recomputed in the backward pass: kept, they
would be the largest thing in memory.

Letters: T tokens, H heads, D width of a head, B rows of a group, n their padded length, P all
places of all groups, that is the sum of their B n.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neobert.ops.kernels import cpu_has_bf16

Taken = ParamSpec("Taken")
Made = TypeVar("Made")

TOGETHER = 2**16
"""Weights of attention up to which documents are computed together; all heads of one are, up to
:data:`MOST_WEIGHTS`.

256 KiB in fp32, in a core's own cache. Measured on an AMD EPYC with bf16 instructions (1 and 2
threads, heads of 64, 90 to 256 documents of 4 to 512 tokens): of the time of one document after the
other it takes 0.2 to 0.9 in bf16 and 0.5 to 1.2 in fp32; 2^14 and 2^18 take up to a third more."""

MOST_WEIGHTS = 2**22
"""Weights of attention that exist at a time at most, 16 MiB in fp32: beyond, a document's heads
follow each other, and beyond 2,048 tokens the queries of a head do. A pass holds about four copies.
"""

SIMILAR = 0.75
"""Length of the shortest row of a group, as a share of its longest."""


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


def _exactly(operator: Callable[Taken, Made]) -> Callable[Taken, Made]:
    """Run in the types that the operator chooses: autocast would turn its fp32 products to bf16."""

    @wraps(operator)
    def run(*args: Taken.args, **kwargs: Taken.kwargs) -> Made:
        with torch.autocast("cpu", enabled=False):
            return operator(*args, **kwargs)

    return run


@torch.library.custom_op(
    "neobert::document_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, Tensor seed, float scale, "
    "float dropout) -> Tensor",
)
@_exactly
def _attend(  # noqa: PLR0913, PLR0917  an operator takes tensors and numbers, no objects
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, seed: Tensor, scale: float, dropout: float
) -> Tensor:
    plan, generator = _plan_of(cu_seqlens, q.shape[1]), _generator(seed, dropout)
    stacks = plan.stack(q), plan.stack(k), plan.stack(v)
    out = torch.empty_like(stacks[0])
    for group, (q_n, k_n, v_n, out_n) in plan.groups_of(*stacks, out):
        for queries in group.queries():
            weights = _weights(q_n[:, queries], k_n, scale, group)  # (B, queries, n)
            if generator is not None:
                weights *= _kept(weights, dropout, generator)
            torch.bmm(weights.to(v_n.dtype), v_n, out=out_n[:, queries])
    return plan.unstack(out, v)


@torch.library.custom_op(
    "neobert::document_attention_backward",
    mutates_args=(),
    schema="(Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, Tensor seed, "
    "float scale, float dropout) -> (Tensor, Tensor, Tensor)",
)
@_exactly
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
    plan, generator = _plan_of(cu_seqlens, q.shape[1]), _generator(seed, dropout)
    stacks = tuple(plan.stack(x) for x in (q, k, v, d_out))
    dq, dk, dv = gradients = tuple(torch.empty_like(stack) for stack in stacks[:3])
    for group, (q_n, k_n, v_n, d_out_n, dq_n, dk_n, dv_n) in plan.groups_of(*stacks, *gradients):
        if group.padding is not None:
            d_out_n.masked_fill_(group.padding.mT, 0)
        sums = _Sums.over(group, dk_n, dv_n)
        for queries in group.queries():
            weights = _weights(q_n[:, queries], k_n, scale, group)
            d_weights = torch.bmm(d_out_n[:, queries], v_n.mT).to(weights.dtype)  # (B, queries, n)
            used = weights
            if generator is not None:
                mask = _kept(weights, dropout, generator)
                used, d_weights = weights * mask, d_weights * mask
            sums.add(1, used.to(v_n.dtype).mT, d_out_n[:, queries])
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_scores = d_scores.to(v_n.dtype)
            torch.bmm(d_scores, k_n, out=dq_n[:, queries])
            sums.add(0, d_scores.mT, q_n[:, queries])
        sums.write()
    return plan.unstack(dq.mul_(scale), q), plan.unstack(dk.mul_(scale), k), plan.unstack(dv, v)


@_exactly
def document_max_logits(
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    cu_seqlens: Int[Tensor, " bounds"],
    is_text: Bool[Tensor, " T"],
    scale: float,
    chunk_size: int,
) -> Float[Tensor, " H"]:
    """Largest ``scale * q k^T`` of each head within documents of text, fp32; ``-inf`` if none."""
    # Without the pad document at the end of a packed row.
    first = cu_seqlens[:-1].long().clamp(max=max(0, len(is_text) - 1))
    plan, heads = _plan_of(cu_seqlens, q.shape[1], is_text[first]), q.shape[1]
    best = torch.full((heads,), -torch.inf, dtype=_compute_type(q.dtype))
    for group, (q_n, k_n) in plan.groups_of(plan.stack(q), plan.stack(k)):
        for queries in q_n.split(chunk_size, dim=1):
            # Padding repeats a document's last token, whose logits are among those of interest.
            largest = torch.bmm(queries, k_n.mT).amax((1, 2))  # (B,)
            best.scatter_reduce_(0, group.head, largest, "amax")
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


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that are computed together: each is one head of one document."""

    number: int
    length: int

    head: Int[Tensor, " B"]
    """Which head each row is."""

    padding: Bool[Tensor, "B 1 n"] | None
    """True beyond the end of a row's document; ``None`` where nothing is padded."""

    def queries(self) -> list[slice]:
        """The queries that are computed together: all, but of a long document a stretch."""
        size = max(1, MOST_WEIGHTS // (self.number * self.length))
        return [slice(first, first + size) for first in range(0, self.length, size)]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which rows of which documents are computed together; the same for every layer of a batch."""

    source: Int[Tensor, " P"]
    """The token and head, ``token * H + head``, at each place; padding repeats the last token."""

    place: Int[Tensor, " T_H"]
    """Where each token and head stands."""

    groups: tuple[_Group, ...]

    def stack(self, x: Tensor) -> Tensor:
        """(T, H, D) -> a copy (P, D), one group after the other, in the type of the products."""
        return x.flatten(0, 1).index_select(0, self.source).to(_compute_type(x.dtype))

    def unstack(self, stack: Tensor, like: Tensor) -> Tensor:
        """(P, D) -> the shape (T, H, D) and type of ``like``, without the padding."""
        return stack.index_select(0, self.place).view(like.shape).to(like.dtype)

    def groups_of(self, *stacks: Tensor) -> Iterator[tuple[_Group, tuple[Tensor, ...]]]:
        """Each group and its part (B, n, D) of every stack, as views."""
        sizes = [group.number * group.length for group in self.groups]
        parts = zip(*(stack.split(sizes) for stack in stacks), strict=True)
        for group, views in zip(self.groups, parts, strict=True):
            yield group, tuple(view.unflatten(0, (group.number, -1)) for view in views)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Gradients that are summed over the stretches of queries, in fp32 or better; those of a group
    whose queries are one stretch are written where they belong."""

    gradients: tuple[Tensor, ...]
    totals: tuple[Tensor, ...]

    @classmethod
    def over(cls, group: _Group, *gradients: Tensor) -> "_Sums":
        if len(group.queries()) == 1:
            return cls(gradients, ())
        exact = torch.promote_types(gradients[0].dtype, torch.float32)
        return cls(
            gradients, tuple(torch.zeros_like(gradient, dtype=exact) for gradient in gradients)
        )

    def add(self, which: int, left: Tensor, right: Tensor) -> None:
        if self.totals:
            self.totals[which].add_(torch.bmm(left, right))
        else:
            torch.bmm(left, right, out=self.gradients[which])

    def write(self) -> None:
        for gradient, total in zip(self.gradients, self.totals, strict=bool(self.totals)):
            gradient.copy_(total)


def _plan_of(cu_seqlens: Tensor, heads: int, selected: Tensor | None = None) -> _Plan:
    """``selected``: which documents, by default all."""
    if selected is not None and selected.all():
        selected = None  # attention has that plan already
    selection = None if selected is None else tuple(selected.tolist())
    return _plan(tuple(cu_seqlens.tolist()), heads, selection)


@lru_cache(maxsize=8)  # of the latest batches: every layer uses it in both passes
def _plan(bounds: tuple[int, ...], heads: int, selected: tuple[bool, ...] | None) -> _Plan:
    starts, lengths = torch.tensor(bounds[:-1]), torch.tensor(bounds).diff()
    planned = lengths > 0 if selected is None else (lengths > 0) & torch.tensor(selected)
    # Longest first. A stable order, since dropout draws its masks in it.
    documents = planned.nonzero()[:, 0]
    documents = documents[lengths[documents].argsort(descending=True, stable=True)]
    starts = starts[documents].repeat_interleave(heads)
    lengths = lengths[documents].repeat_interleave(heads)
    head = torch.arange(heads).repeat(len(documents))
    groups, sources, real = [], [], []
    for first, last in _group_bounds(lengths.tolist(), heads):
        rows, longest = slice(first, last), int(lengths[first])
        column = torch.arange(longest)
        padding = column >= lengths[rows, None]  # (B, n)
        token = starts[rows, None] + column.minimum(lengths[rows, None] - 1)
        sources.append((token * heads + head[rows, None]).flatten())
        real.append(~padding.flatten())
        padded = padding[:, None] if padding.any() else None
        groups.append(_Group(last - first, longest, head[rows], padded))
    source = torch.cat(sources) if sources else torch.empty(0, dtype=torch.int64)
    place = torch.zeros(bounds[-1] * heads, dtype=torch.int64)
    if real:
        real_rows = torch.cat(real).nonzero()[:, 0]
        place[source[real_rows]] = real_rows
    return _Plan(source, place, tuple(groups))


def _group_bounds(lengths: list[int], heads: int) -> Iterator[tuple[int, int]]:
    """First row of each group and the one after its last; ``lengths`` of rows fall."""
    first = 0
    while first < len(lengths):
        longest, last = lengths[first], first + 1
        most = max(1, TOGETHER // longest**2, min(heads, MOST_WEIGHTS // longest**2))
        while last < len(lengths) and last - first < most and lengths[last] >= SIMILAR * longest:
            last += 1
        yield first, last
        first = last


def _weights(q: Tensor, k: Tensor, scale: float, group: _Group) -> Tensor:
    """Softmax of the scores, (B, queries, D) and (B, n, D) -> (B, queries, n).

    In fp32 or better as in flash kernels.
    Scores of 26 rounded to bf16 leave errors of 1.1 % in the gradients; like this they are 0.3 %,
    bf16's own.
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    scores = torch.bmm(q.to(exact) * scale, k.mT.to(exact))
    if group.padding is not None:
        scores.masked_fill_(group.padding, -torch.inf)
    return torch.softmax(scores, dim=-1)


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
