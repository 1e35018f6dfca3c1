"""Normalisations: RMSNorm (arXiv 1910.07467), and onto the unit sphere.

Letters: E width of the normalised axis; ``...`` any leading axes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from neobert.ops.kernels import liger_runs
from neobert.ops.liger import liger_rms_norm


def rms_norm(
    x: Float[Tensor, "*rows E"],
    weight: Float[Tensor, " E"],
    eps: float,
    kernel_backend: str = "torch",
) -> Float[Tensor, "*rows E"]:
    """``weight * x / sqrt(mean(x^2) + eps)`` with the statistics in fp32, in x's type."""
    if liger_runs(kernel_backend, x.device):
        return liger_rms_norm(x, weight, eps)
    return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype) * weight.to(x.dtype)


def unit_norm(x: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
    """``x / (|x| + 1e-8)`` over the last axis: a point on the unit sphere, in x's type."""
    lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x / (lengths + 1e-8)).to(x.dtype)
