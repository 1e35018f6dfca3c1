"""The GPU's kernels for packed sequences against the portable ones."""

import pytest
import torch
from torch.testing import assert_close

from neobert.batch import PackedBatch
from neobert.ops.attention import attend, lay_out
from neobert.ops.kernels import resolve_attention


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [0.125, 1.0])
def test_the_flash_kernel_agrees_with_sdpa(scale) -> None:
    device, dtype = torch.device("cuda"), torch.bfloat16
    kernel = resolve_attention("flash_attn_varlen", device, dtype, False, 64).kernel
    if kernel == "dense":
        pytest.skip("no flash kernel on this GPU")
    lengths = (1, 100, 37, 512)
    batch = PackedBatch.from_documents([[1] * length for length in lengths]).to(device)
    shape = (sum(lengths), 4, 64)
    qkv = [torch.randn(shape, device=device, dtype=dtype).requires_grad_() for _ in range(3)]
    found = []
    for way in (kernel, "dense"):
        out = attend(*qkv, lay_out(batch, way, 0, record=False), scale)
        found.append([out, *torch.autograd.grad(out.float().square().sum(), qkv)])
    for ours, theirs in zip(*found, strict=True):
        largest = theirs.abs().max().item()
        # bf16 keeps 8 bits, and the two add in different orders.
        assert_close(ours / largest, theirs / largest, atol=0.02, rtol=0)
