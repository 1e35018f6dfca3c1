"""Contrastive losses: InfoNCE and SupCon over in-batch positives and hard negatives.

Averaged over the anchors, so that the gradient's scale does not depend on the batch. Candidates may
come from all ranks (:func:`gather_candidates`).

Letters: B anchors of this rank, C candidates, E width of a sentence vector, N rows of any tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Similarity:
    """How a pair of vectors becomes a logit."""

    temperature: float = 0.05
    hard_negative_weight: float = 0.0
    """Added to the logits of hard negatives: each then counts as ``exp(weight)`` of them."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """The queries of this rank."""

    vectors: Float[Tensor, "B E"]
    texts: Int[Tensor, " B"]
    """Number of each query's text: equal texts have equal numbers."""

    groups: Int[Tensor, " B"]
    """Number of the class, or of the query text where there are no classes."""

    own: Int[Tensor, " B"]
    """Which candidate is the positive of each anchor."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The documents that anchors are compared with."""

    vectors: Float[Tensor, "C E"]
    texts: Int[Tensor, " C"]
    groups: Int[Tensor, " C"]
    """As for the anchors; of no meaning for hard negatives, which belong to no group."""

    is_hard: Bool[Tensor, " C"]
    """Hard negatives, which are nobody's positive."""


@dataclass(frozen=True, slots=True)
class ContrastiveLoss:
    """What a batch adds to loss and accuracy: tensors, so that nothing waits for the device."""

    mean: Float[Tensor, ""]
    """Mean over the anchors, in nats."""

    correct: Int[Tensor, ""]
    """Anchors whose best candidate is a positive of theirs."""


def simcse_loss(anchors: Anchors, candidates: Candidates, how: Similarity) -> ContrastiveLoss:
    """InfoNCE with in-batch and hard negatives (SimCSE, arXiv 2104.08821, eq. 5).

    ``-log(exp(s_ii) / sum_j exp(s_ij))`` with ``s_ij = cos(q_i, c_j) / T``, plus the log-weight for
    hard negatives. Left out of the sum are the false negatives: candidates with the text of the
    anchor or of its positive, and the positives of its group.
    """
    scores = _scores(anchors, candidates, how)  # (B, C)
    _, related = _relations(anchors, candidates)
    # Not F.one_hot, which reads the largest index back to check it.
    places = torch.arange(len(candidates.texts), device=anchors.own.device)
    is_own = anchors.own[:, None] == places
    scores = scores.masked_fill(related & ~is_own, -torch.inf)
    mean = F.cross_entropy(scores, anchors.own)
    return ContrastiveLoss(mean, _hits(scores, is_own))


def supcon_loss(anchors: Anchors, candidates: Candidates, how: Similarity) -> ContrastiveLoss:
    """Supervised contrastive loss (arXiv 2004.11362, L_out, eq. 2): several positives per anchor.

    ``-1/|P(i)| sum_{p in P(i)} log(exp(s_ip) / sum_j exp(s_ij))``. P(i) are the candidates of the
    anchor's group and those with the text of its positive. Copies of the anchor's own text, and of
    its positive's among the hard negatives, are in neither sum. Where each anchor has one positive
    it is :func:`simcse_loss`.
    """
    scores = _scores(anchors, candidates, how)  # (B, C)
    positive, related = _relations(anchors, candidates)
    scores = scores.masked_fill(related & ~positive, -torch.inf)
    log_probability = scores - scores.logsumexp(dim=1, keepdim=True)
    of_positives = log_probability.masked_fill(~positive, 0.0).sum(1)  # (B,)
    mean = -(of_positives / positive.sum(1)).mean()
    return ContrastiveLoss(mean, _hits(scores, positive))


def _scores(anchors: Anchors, candidates: Candidates, how: Similarity) -> Float[Tensor, "B C"]:
    """Cosine over temperature, in fp32 at least: its logits span 2 / T, which is 40 by default."""
    exact = torch.promote_types(anchors.vectors.dtype, torch.float32)
    with torch.autocast(anchors.vectors.device.type, enabled=False):
        queries = F.normalize(anchors.vectors.to(exact), dim=1)
        documents = F.normalize(candidates.vectors.to(exact), dim=1)
        scores = queries @ documents.T / how.temperature
    if how.hard_negative_weight:
        scores = scores + how.hard_negative_weight * candidates.is_hard.to(scores.dtype)
    return scores


def _relations(
    anchors: Anchors, candidates: Candidates
) -> tuple[Bool[Tensor, "B C"], Bool[Tensor, "B C"]]:
    """Which candidates are positives of an anchor, and which are no negatives of it."""
    same_document = candidates.texts[anchors.own][:, None] == candidates.texts
    same_group = (anchors.groups[:, None] == candidates.groups) & ~candidates.is_hard
    positive = (same_document | same_group) & ~candidates.is_hard
    copies_anchor = anchors.texts[:, None] == candidates.texts
    return positive, positive | same_document | copies_anchor


def _hits(scores: Float[Tensor, "B C"], positive: Bool[Tensor, "B C"]) -> Int[Tensor, ""]:
    return positive.gather(1, scores.detach().argmax(1, keepdim=True)).sum()


def gather_candidates(
    own: Candidates, sizes: Sequence[int] | None = None
) -> tuple[Candidates, int]:
    """The candidates of all ranks in their order, and where this rank's begin.

    ``sizes``: number of candidates of each rank; ``None`` if all have as many. With gradients: each
    rank's loss reaches the vectors of every other. The mean of the ranks' gradients, which data
    parallelism takes, is then that of the
    mean loss over all anchors.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return own, 0
    sizes = list(sizes or [len(own.texts)] * dist.get_world_size())
    gather = partial(_gathered, sizes=sizes)
    vectors: Tensor = _GatherRows.apply(own.vectors, sizes)  # type: ignore[no-untyped-call]
    everyone = Candidates(
        vectors=vectors,
        texts=gather(own.texts),
        groups=gather(own.groups),
        is_hard=gather(own.is_hard.to(torch.int64)).bool(),
    )
    return everyone, sum(sizes[: dist.get_rank()])


def _gathered(rows: Shaped[Tensor, "N ..."], sizes: list[int]) -> Shaped[Tensor, "M ..."]:
    """The rows of all ranks end to end. Filled up on the way: a collective wants equal shapes."""
    filled = rows.new_zeros(max(sizes), *rows.shape[1:])
    filled[: len(rows)] = rows
    parts = [torch.empty_like(filled) for _ in sizes]
    dist.all_gather(parts, filled)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _GatherRows(torch.autograd.Function):
    """Forward: the rows of all ranks. Backward: the sum of all ranks' gradients of mine."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes  # type: ignore[attr-defined]
        return _gathered(rows, sizes)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        sizes: list[int] = ctx.sizes  # type: ignore[attr-defined]
        rank = dist.get_rank()
        return total.split(sizes)[rank], None
