"""Rotary position embedding (RoFormer, arXiv 2104.09864) on interleaved pairs.

Channels ``2j`` and ``2j + 1`` of a head are one complex number, turned by
``position * theta^(-2j/D)``. That is the published NeoBERT's convention; the half-rotating one of
other models is not the same.

Documents longer than those of training take scaled frequencies, by the types and settings of
transformers (``rope_parameters``): ``linear`` (arXiv 2306.15595), ``yarn`` (arXiv 2309.00071,
section 3.4) and ``llama3`` (the rule of Llama 3.1).

Letters: T tokens, H heads, D width of a head, F = D / 2 frequencies.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_table(
    position_ids: Int[Tensor, " T"],
    head_dim: int,
    theta: float,
    scaling: Mapping[str, Any] | None = None,
) -> tuple[Float[Tensor, "T F"], Float[Tensor, "T F"]]:
    """Cosine and sine of every token's angles, fp32. Made once per batch, used by every layer.

    ``scaling``: see :func:`scaled_frequencies`.
    """
    even = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device)
    frequencies, height = theta ** (-even / head_dim), 1.0
    if scaling:
        frequencies, height = scaled_frequencies(frequencies, theta, scaling)
    angles = position_ids.float()[:, None] * frequencies  # (T, F)
    if height == 1.0:
        return angles.cos(), angles.sin()
    return angles.cos() * height, angles.sin() * height


def scaled_frequencies(
    frequencies: Float[Tensor, " F"], theta: float, scaling: Mapping[str, Any]
) -> tuple[Float[Tensor, " F"], float]:
    """Scaled rotary frequencies, and the factor of cosines and sines.

    ``scaling`` has transformers' keys: ``rope_type`` (``default``, ``linear``, ``yarn`` or
    ``llama3``), ``factor``, and those of its type, ``original_max_position_embeddings`` among them.
    """
    match scaling["rope_type"]:
        case "default":
            return frequencies, 1.0
        case "linear":
            return frequencies / scaling["factor"], 1.0
        case "yarn":
            return _yarn(frequencies, theta, scaling)
        case "llama3":
            return _llama3(frequencies, scaling), 1.0
    raise ValueError(f"rope_type={scaling['rope_type']}: must be default, linear, yarn or llama3")


def _yarn(
    frequencies: Float[Tensor, " F"], theta: float, scaling: Mapping[str, Any]
) -> tuple[Float[Tensor, " F"], float]:
    """Fast frequencies stay, slow ones are divided by the factor, a ramp lies between them."""
    factor, trained = scaling["factor"], scaling["original_max_position_embeddings"]
    width = 2 * len(frequencies)

    def channel(rotations: float) -> float:  # that turns so often over the trained length
        return width * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    first = channel(float(scaling.get("beta_fast") or 32))
    last = channel(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    if first == last:
        last += 0.001
    place = torch.arange(len(frequencies), dtype=torch.float32, device=frequencies.device)
    slow = ((place - first) / (last - first)).clamp(0, 1)  # (F,)
    mixed = frequencies / factor * slow + frequencies * (1 - slow)
    height = scaling.get("attention_factor")
    if height is None:
        height = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1
    return mixed, float(height)


def _llama3(frequencies: Float[Tensor, " F"], scaling: Mapping[str, Any]) -> Float[Tensor, " F"]:
    """Waves longer than the trained length are stretched by the factor, short ones stay."""
    factor, low, high = (scaling[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies / factor * (1 - share) + frequencies * share


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
