"""RMSNorm (arXiv 1910.07467) in PyTorch.

Letters: E width of the normalised axis; ``...`` any leading axes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def rms_norm(
    x: Float[Tensor, "*rows E"], weight: Float[Tensor, " E"], eps: float
) -> Float[Tensor, "*rows E"]:
    """``weight * x / sqrt(mean(x^2) + eps)`` with the statistics in fp32."""
    return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype) * weight.to(x.dtype)


def unit_norm(x: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
    """``x / (|x| + 1e-8)`` over the last axis: a point on the unit sphere, in x's type."""
    lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x / (lengths + 1e-8)).to(x.dtype)
