"""SwiGLU (arXiv 2002.05202) in PyTorch.

Letters: F width of the feed-forward layer.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def swiglu(
    gate: Float[Tensor, "*rows F"], up: Float[Tensor, "*rows F"]
) -> Float[Tensor, "*rows F"]:
    """``silu(gate) * up``."""
    return F.silu(gate) * up


def swiglu_width(intermediate_size: int) -> int:
    """Width of each of the two inner layers: 2/3 of ``intermediate_size``, rounded up to 8.

    A third matrix joins the usual two, so the width shrinks to keep the number of weights.
    """
    return 8 * -(-int(2 * intermediate_size / 3) // 8)
