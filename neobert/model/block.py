"""One pre-norm transformer block: attention, then feed-forward, each added to its input.

Letters: T tokens, N tokens whose output is requested, E model width.
"""

from jaxtyping import Float, Int
from torch import Tensor, nn

from neobert.config.model import ModelConfig
from neobert.model.feed_forward import build_feed_forward
from neobert.model.norm_layers import build_norm
from neobert.model.self_attention import Rotary, SelfAttention, select_rows
from neobert.ops.attention import Layout


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
