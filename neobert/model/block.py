"""One pre-norm transformer block: attention, then feed-forward, each added to its input.

Letters: T tokens, N tokens whose output is requested, E model width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neobert.config.model import ModelConfig
from neobert.model.self_attention import Rotary, SelfAttention, select_rows
from neobert.ops.attention import Layout
from neobert.ops.norm import rms_norm
from neobert.ops.swiglu import swiglu, swiglu_width


class Block(SelfAttention):
    """``x + drop(attention(norm(x)))``, then ``x + drop(ffn(norm(x)))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.attention_norm = build_norm(config)
        self.ffn_norm = build_norm(config)
        self.ffn = build_feed_forward(config)
        self.dropout = nn.Dropout(config.dropout_prob)

    def forward(
        self,
        x: Float[Tensor, "T E"],
        layout: Layout,
        rotary: Rotary | None,
        rows: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "N E"]:
        """``rows``: the tokens whose output is computed, by default all."""
        attended = self.self_attention(self.attention_norm(x), layout, rotary, rows)
        x = select_rows(x, rows) + self.dropout(attended)
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class RMSNorm(nn.Module):
    """``weight * x / rms(x)``, without bias."""

    def __init__(self, width: int, eps: float, kernel_backend: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.kernel_backend = eps, kernel_backend

    def forward(self, x: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        return rms_norm(x, self.weight, self.eps, self.kernel_backend)


def build_norm(config: ModelConfig) -> nn.Module:
    """RMSNorm, or LayerNorm with bias (``model.rms_norm``), over ``model.hidden_size``."""
    if config.rms_norm:
        return RMSNorm(config.hidden_size, config.norm_eps, config.kernel_backend)
    return nn.LayerNorm(config.hidden_size, config.norm_eps)


class SwiGLU(nn.Module):
    """``w3(silu(w1 x) * w2 x)``, without biases: ``w1`` is the gate."""

    def __init__(self, width: int, inner: int, kernel_backend: str) -> None:
        super().__init__()
        self.kernel_backend = kernel_backend
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(width, inner, bias=False)
        self.w3 = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        return self.w3(swiglu(self.w1(x), self.w2(x), self.kernel_backend))


def build_feed_forward(config: ModelConfig) -> nn.Module:
    """By ``model.hidden_act``: SwiGLU at two thirds of ``model.intermediate_size``, or GELU (exact)
    at all of it."""
    width, inner = config.hidden_size, config.intermediate_size
    if config.hidden_act.lower() == "swiglu":
        return SwiGLU(width, swiglu_width(inner), config.kernel_backend)
    return nn.Sequential(
        nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, width, bias=False)
    )
