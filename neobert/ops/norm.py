"""Normalisations: RMSNorm (arXiv 1910.07467), and onto the unit sphere.

Letters: E width of the normalised axis; ``...`` any leading axes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from neobert.ops.kernels import liger_runs


def rms_norm(
    x: Float[Tensor, "*rows E"],
    weight: Float[Tensor, " E"],
    eps: float,
    kernel_backend: str = "torch",
) -> Float[Tensor, "*rows E"]:
    """``weight * x / sqrt(mean(x^2) + eps)`` with the statistics in fp32, in x's type."""
    if liger_runs(kernel_backend, x.device):
        from liger_kernel.transformers import functional  # optional package

        # "llama": statistics in fp32, then cast, then weight, as the portable twin does.
        return functional.liger_rms_norm(x, weight, eps, casting_mode="llama", in_place=False)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _RMSNorm.apply(x, weight, eps)
    return plain_rms_norm(x, weight, eps)


def plain_rms_norm(
    x: Float[Tensor, "*rows E"], weight: Float[Tensor, " E"], eps: float
) -> Float[Tensor, "*rows E"]:
    """Left to PyTorch: one kernel on a GPU, fused by a compiler, many passes else."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.rms_norm(exact, x.shape[-1:], eps=eps).to(x.dtype) * weight.to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    """The same with its gradient written out: half the passes over memory where nothing fuses."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        lengths = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        scale = lengths.square_().div_(x.shape[-1]).add_(eps).rsqrt_()  # (..., 1)
        unit = (exact * scale).to(x.dtype)
        ctx.save_for_backward(unit, weight, scale)
        return unit * weight.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_out: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, weight, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        d_weight = (d_out * unit).reshape(-1, len(weight)).sum(0, dtype=weight.dtype)
        d_unit, exact = (d_out * weight.to(d_out.dtype)).to(scale.dtype), unit.to(scale.dtype)
        # What points along x is lost, since the result does not depend on its length.
        along = (d_unit * exact).mean(-1, keepdim=True)
        d_x = d_unit.addcmul_(exact, along, value=-1).mul_(scale)
        return d_x.to(d_out.dtype), d_weight, None


def unit_norm(x: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
    """``x / (|x| + 1e-8)`` over the last axis: a point on the unit sphere, in x's type."""
    exact = torch.promote_types(x.dtype, torch.float32)
    lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
    return (x / (lengths + 1e-8)).to(x.dtype)
