"""The feed-forward half of a block, by ``model.hidden_act``. No biases.

Letters: T tokens, E model width.
"""

from jaxtyping import Float
from torch import Tensor, nn

from neobert.config.model import ModelConfig
from neobert.ops.swiglu import swiglu, swiglu_width


class SwiGLU(nn.Module):
    """``w3(silu(w1 x) * w2 x)``: ``w1`` is the gate."""

    def __init__(self, width: int, inner: int, kernel_backend: str) -> None:
        super().__init__()
        self.kernel_backend = kernel_backend
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(width, inner, bias=False)
        self.w3 = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        return self.w3(swiglu(self.w1(x), self.w2(x), self.kernel_backend))


def build_feed_forward(config: ModelConfig) -> nn.Module:
    """SwiGLU at two thirds of ``model.intermediate_size``, or GELU (exact) at all of it."""
    width, inner = config.hidden_size, config.intermediate_size
    if config.hidden_act.lower() == "swiglu":
        return SwiGLU(width, swiglu_width(inner), config.kernel_backend)
    return nn.Sequential(
        nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, width, bias=False)
    )
