"""SwiGLU (arXiv 2002.05202).

Letters: F width of the feed-forward layer.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from neobert.ops.kernels import liger_runs


def swiglu(
    gate: Float[Tensor, "*rows F"], up: Float[Tensor, "*rows F"], kernel_backend: str = "torch"
) -> Float[Tensor, "*rows F"]:
    """``silu(gate) * up``."""
    if liger_runs(kernel_backend, gate.device):
        from liger_kernel.transformers import functional  # optional package

        # Its backward pass overwrites the two inputs, which nobody uses again.
        return functional.liger_swiglu(gate, up)
    return F.silu(gate) * up


def swiglu_width(intermediate_size: int) -> int:
    """Width of each of the two inner layers: 2/3 of ``intermediate_size``, rounded up to 8.

    A third matrix joins the usual two, so the width shrinks to keep the number of weights.
    """
    return 8 * -(-int(2 * intermediate_size / 3) // 8)
