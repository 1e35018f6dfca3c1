"""nGPT (arXiv 2410.01131): hidden states, weights and embeddings stay on the unit sphere.

Each block moves the hidden state along the sphere towards what attention and feed-forward layer
propose. Learned vectors set how far (``alpha``) and how large queries and keys (``sqk``), the inner
layer (``suv``) and the logits (``sz``) are. Each is stored at ``model.base_scale`` and used at its
initial value divided by that, which sets its learning rate apart from the matrices' (section 2.5).

The blocks are those of the reference implementation; what it lacks is here too: the projection of
weights after every optimizer step (:func:`normalize_`, section 2.6) and the scale of the logits.

Letters: T tokens, N tokens whose output is requested, E model width, H heads, D width of a head,
I ``model.intermediate_size``.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neobert.config.model import ModelConfig
from neobert.model.self_attention import Rotary, SelfAttention, select_rows
from neobert.ops.attention import Layout
from neobert.ops.norm import unit_norm
from neobert.ops.swiglu import swiglu

ALPHA = 0.05
"""Initial share of the way towards a proposal."""

ROWS, COLUMNS = 1, 0
"""Axis along which a matrix is normalised: its rows if it reads hidden states, else its columns."""


class NormalizedBlock(SelfAttention):
    """``x <- n(x + alpha (n(f(x)) - x))`` for attention, then feed-forward; n is the unit norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width, inner = config.hidden_size, config.intermediate_size
        self.base_scale, self.kernel_backend = config.base_scale, config.kernel_backend
        self.scale = self.head_dim**0.5  # queries and keys have length 1, not sqrt(D)
        self.inner_scale = width**0.5
        self.c_fc = nn.Linear(width, 2 * inner, bias=False)
        self.mlp_c_proj = nn.Linear(inner, width, bias=False)
        self.attn_alpha = nn.Parameter(torch.full((width,), config.base_scale))
        self.mlp_alpha = nn.Parameter(torch.full((width,), config.base_scale))
        self.sqk = nn.Parameter(torch.full((width,), config.base_scale))
        self.suv = nn.Parameter(torch.ones(2 * inner))
        self.dropout = nn.Dropout(config.dropout_prob)

    def forward(
        self,
        x: Float[Tensor, "T E"],
        layout: Layout,
        rotary: Rotary | None,
        rows: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "N E"]:
        """``rows``: the tokens whose output is computed, by default all."""
        attended = self.self_attention(x, layout, rotary, rows)
        x = self._towards(select_rows(x, rows), attended, self.attn_alpha)
        return self._towards(x, self._feed_forward(x), self.mlp_alpha)

    def scale_heads(
        self, q: Float[Tensor, "T H D"], k: Float[Tensor, "T H D"]
    ) -> tuple[Float[Tensor, "T H D"], Float[Tensor, "T H D"]]:
        """Unit queries and keys, times the learned scale of each channel."""
        learned = (self.sqk / self.base_scale).view(self.num_heads, self.head_dim)
        return (learned * unit_norm(q)).to(q.dtype), (learned * unit_norm(k)).to(k.dtype)

    def _feed_forward(self, x: Tensor) -> Tensor:
        value, gate = (self.suv * self.inner_scale * self.c_fc(x)).chunk(2, dim=-1)
        return self.mlp_c_proj(swiglu(gate, value, self.kernel_backend))

    def _towards(self, x: Tensor, proposal: Tensor, alpha: Tensor) -> Tensor:
        share = (alpha * (ALPHA / self.base_scale)).abs()
        start, end = unit_norm(x), unit_norm(self.dropout(proposal))
        return unit_norm(start + share * (end - start))


@torch.no_grad()
def normalize_(model: nn.Module) -> None:
    """Give every vector of ``model``'s matrices that lives in the space of hidden states length 1.

    Those are the rows of what reads a hidden state (embeddings, decoder, ``qkv``, ``c_fc``) and the
    columns of what writes one (``wo``, ``mlp_c_proj``). Call it after each optimizer step.
    """
    for name, weight in model.named_parameters():
        axis = _axis(name)
        if axis is not None:
            exact = torch.promote_types(weight.dtype, torch.float32)
            length = torch.linalg.vector_norm(weight, dim=axis, keepdim=True, dtype=exact)
            weight.div_((length + 1e-8).to(weight.dtype))


def _axis(name: str) -> int | None:
    match name.split(".")[-2:]:
        case ["encoder" | "decoder" | "qkv" | "c_fc", "weight"]:
            return ROWS
        case ["wo" | "mlp_c_proj", "weight"]:
            return COLUMNS
    return None
