"""Rotary position embedding (RoFormer, arXiv 2104.09864) on interleaved pairs.

Channels ``2j`` and ``2j + 1`` of a head are one complex number, turned by
``position * theta^(-2j/D)``. That is the published NeoBERT's convention; the half-rotating one of
other models is not the same.

Letters: T tokens, H heads, D width of a head, F = D / 2 frequencies.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_table(
    position_ids: Int[Tensor, " T"], head_dim: int, theta: float
) -> tuple[Float[Tensor, "T F"], Float[Tensor, "T F"]]:
    """Cosine and sine of every token's angles, fp32. Made once per batch, used by every layer."""
    even = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device)
    angles = position_ids.float()[:, None] * theta ** (-even / head_dim)  # (T, F)
    return angles.cos(), angles.sin()


def apply_rotary(
    x: Float[Tensor, "T H D"], cos: Float[Tensor, "T F"], sin: Float[Tensor, "T F"]
) -> Float[Tensor, "T H D"]:
    """Turn each pair of channels by its token's angle; computed in fp32, given back in x's type."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    turn = turn_as_reals if torch.compiler.is_compiling() else turn_as_complex
    return turn(exact, cos[:, None].to(exact.dtype), sin[:, None].to(exact.dtype)).to(x.dtype)


def turn_as_complex(
    x: Float[Tensor, "T H D"], cos: Float[Tensor, "T 1 F"], sin: Float[Tensor, "T 1 F"]
) -> Float[Tensor, "T H D"]:
    """One multiplication of complex numbers: three times as fast as the other where not fused."""
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cos, sin)
    return torch.view_as_real(turned).flatten(-2)


def turn_as_reals(
    x: Float[Tensor, "T H D"], cos: Float[Tensor, "T 1 F"], sin: Float[Tensor, "T 1 F"]
) -> Float[Tensor, "T H D"]:
    """Written out, for compilers: inductor fuses this and knows no complex numbers."""
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)  # (T, H, F)
    turned = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)
    return turned.flatten(-2)
