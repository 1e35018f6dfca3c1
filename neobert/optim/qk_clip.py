"""QK-clip: keeps attention logits from growing without bound.

Kimi K2 (https://arxiv.org/abs/2507.20534), section 2.1 and algorithm 1. A logit is bilinear in
query and key, so a head whose largest logit S exceeds the threshold t returns to it when its
queries are scaled by (t/S)^alpha and its keys by (t/S)^(1 - alpha).

Letters: H heads, D width of a head, E width of the model.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from neobert.optim.sharded import Fragments, fragments_of

ALREADY_THERE = 1e-6
"""Relative excess over the threshold that rounding explains: such heads do not count as clipped."""


@torch.no_grad()
def qk_clip_(
    qkv_weight: Float[Tensor, "HtimesD3 E"],
    max_logits: Float[Tensor, " H"],
    threshold: float,
    alpha: float = 0.5,
) -> Int[Tensor, ""]:
    """Clip a fused projection whose rows are [Q_h, K_h, V_h] of each head; V stays.

    ``max_logits`` are the largest logits of each head, after the scale, before the softmax;
    -inf (nothing measured) leaves a head alone. Returns the number of clipped heads, on the device.
    """
    factor = clip_factor(max_logits, threshold)  # (H,)
    per_row = torch.stack([factor**alpha, factor ** (1 - alpha), torch.ones_like(factor)], dim=1)
    scale_rows_(qkv_weight, per_row.flatten())
    return num_clipped(max_logits, threshold)


@torch.no_grad()
def qk_clip_separate_(
    query: list[Tensor],
    key: list[Tensor],
    max_logits: Float[Tensor, " H"],
    threshold: float,
    alpha: float = 0.5,
) -> Int[Tensor, ""]:
    """The same for separate projections: weights (H·D, E) and biases (H·D,) of each."""
    factor = clip_factor(max_logits, threshold)
    for tensor in query:
        scale_rows_(tensor, factor**alpha)
    for tensor in key:
        scale_rows_(tensor, factor ** (1 - alpha))
    return num_clipped(max_logits, threshold)


def clip_factor(max_logits: Float[Tensor, " H"], threshold: float) -> Float[Tensor, " H"]:
    """``min(1, threshold / max_logits)``, 1 where nothing finite was measured.

    An infinite logit is fp16's overflow, whose update the gradient scaler skips: no reason to
    erase a head.
    """
    measured = max_logits.float()
    return torch.where(measured.isfinite(), threshold / measured.clamp(min=threshold), 1.0)


def num_clipped(max_logits: Float[Tensor, " H"], threshold: float) -> Int[Tensor, ""]:
    """Heads above the threshold, on the device of ``max_logits``."""
    return (clip_factor(max_logits, threshold) < 1 - ALREADY_THERE).sum()


def scale_rows_(tensor: Tensor, factors: Tensor) -> None:
    """Multiply equal blocks of rows by one factor each; of a sharded tensor, what is held here."""
    spread = fragments_of(tensor)
    shape = tuple(tensor.shape) if spread is None else spread.shape
    per_row = factors.repeat_interleave(shape[0] // len(factors))
    if spread is not None:
        _scale_fragments_(spread, per_row)
    elif isinstance(tensor, DTensor):
        _scale_rows_held_(tensor, per_row)
    else:
        tensor.mul_(per_row.view(-1, *[1] * (tensor.ndim - 1)).to(tensor.dtype))


def _scale_rows_held_(tensor: DTensor, per_row: Tensor) -> None:
    if tensor.placements != (Shard(0),):
        raise ValueError(f"QK-clip needs weights sharded by rows, not {tensor.placements}")
    rank, ranks = tensor.device_mesh.get_local_rank(), tensor.device_mesh.size()
    local = tensor.to_local()
    first = rank * -(-len(per_row) // ranks)
    rows = per_row[first : first + len(local)]
    local.mul_(rows.view(-1, *[1] * (local.ndim - 1)).to(local.dtype))


def _scale_fragments_(spread: Fragments, per_row: Tensor) -> None:
    columns = spread.shape[1] if len(spread.shape) > 1 else 1
    for fragment in spread.find():
        numbers = torch.arange(fragment.tensor.numel(), device=per_row.device) + fragment.start
        factors = per_row[numbers.div(columns, rounding_mode="floor")]
        fragment.tensor.mul_(factors.to(fragment.tensor))
