"""The GPU's kernels for packed sequences against the portable ones.

Without a GPU the kernels are emulated under their own signatures: that tests how they are called.
"""

import inspect
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.attention.varlen as torch_varlen
from torch import Tensor
from torch.testing import assert_close

from neobert.batch import PackedBatch
from neobert.ops.attention import attend, lay_out
from neobert.ops.document_attention import document_attention
from neobert.ops.kernels import resolve_attention

LENGTHS = (1, 100, 37, 0, 128)


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [0.125, 1.0])
def test_the_flash_kernel_agrees_with_sdpa(scale) -> None:
    device, dtype = torch.device("cuda"), torch.bfloat16
    kernel = resolve_attention("flash_attn_varlen", device, dtype, False, 64).kernel
    if kernel == "dense":
        pytest.skip("no flash kernel on this GPU")
    # bf16 keeps 8 bits, and the two add in different orders.
    assert_agrees_with_sdpa(kernel, device, dtype, scale, 0.02)


@pytest.fixture
def emulated(monkeypatch) -> None:
    """Both kernels, computed by the portable path."""

    def flash_attn_varlen_func(  # noqa: PLR0917  as in flash-attn 2.8
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
    ) -> Tensor:
        assert cu_seqlens_q is cu_seqlens_k
        assert cu_seqlens_q.dtype == torch.int32
        assert max_seqlen_q == max_seqlen_k == max(LENGTHS)
        assert not causal
        return document_attention(q, k, v, cu_seqlens_q, softmax_scale, dropout_p)

    signature = inspect.signature(torch_varlen.varlen_attn)

    def varlen_attn(*args, **kwargs) -> Tensor:
        given = signature.bind(*args, **kwargs).arguments
        q, k, v = given.pop("query"), given.pop("key"), given.pop("value")
        bounds, max_q = given.pop("cu_seq_q"), given.pop("max_q")
        assert given == {"cu_seq_k": bounds, "max_k": max_q}  # what all versions have
        return document_attention(q, k, v, bounds, q.shape[-1] ** -0.5)

    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(torch_varlen, "varlen_attn", varlen_attn)


# Scales of a plain model and of nGPT. bf16 keeps 8 bits: scores and weights are rounded in other
# places, and PyTorch's kernel gets queries that carry the scale.
@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("scale", [0.125, 8.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("kernel", ["flash_attn", "torch_varlen"])
def test_emulated_kernels_agree_with_sdpa(kernel, dtype, tolerance, scale) -> None:
    assert_agrees_with_sdpa(kernel, torch.device("cpu"), dtype, scale, tolerance)


def assert_agrees_with_sdpa(kernel, device, dtype, scale, tolerance) -> None:
    """Values and gradients, relative to the largest."""
    batch = PackedBatch.from_documents([[1] * length for length in LENGTHS]).to(device)
    fused = torch.randn(sum(LENGTHS), 4, 3, 64, device=device, dtype=dtype)
    fused *= (0.125 / scale) ** 0.5  # logits around 1, as nGPT's queries of length 1 give
    # Slices of one tensor, as the projection makes them.
    qkv = [x.detach().requires_grad_() for x in fused.unbind(2)]
    found = []
    for way in (kernel, "dense"):
        out = attend(*qkv, lay_out(batch, way, 0), scale)
        found.append([out, *torch.autograd.grad(out.square().sum(), qkv)])
    for ours, theirs in zip(*found, strict=True):
        largest = theirs.abs().max().item()
        assert_close(ours / largest, theirs / largest, atol=tolerance, rtol=0)
