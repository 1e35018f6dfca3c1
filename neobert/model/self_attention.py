"""Multi-head self-attention, and the record of its largest logits for QK-clip.

Letters: T tokens, N tokens whose output is requested, E model width, H heads, D width of a head,
F = D / 2 rotary frequencies.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neobert.config.model import ModelConfig
from neobert.ops.attention import Layout, attend, raised_max_logits
from neobert.ops.rotary import apply_rotary

Rotary = tuple[Float[Tensor, "T F"], Float[Tensor, "T F"]]


class SelfAttention(nn.Module):
    """What every kind of block inherits: it keeps the projections under the published names.

    The rows of ``qkv`` are grouped per head: D rows of Q, D of K, D of V, then the next head. The
    kinds of block differ in what stands around :meth:`self_attention`.
    """

    max_logits: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        self.head_dim = width // self.num_heads
        self.scale = self.head_dim**-0.5
        self.attention_dropout = config.dropout_prob
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

        self.measurable = False
        """Whether :attr:`record_max_logits` may be turned on: a compiled graph then has the
        measurement in it, and need not be compiled again when it is."""
        self._records = False
        # What a compiled graph reads. On the CPU: to look at it waits for no GPU.
        self._recording = torch.zeros((), dtype=torch.bool, device="cpu")
        self.qk_chunk_size = 1024
        """Queries whose logits are formed at a time while recording."""
        self.register_buffer(
            "max_logits", torch.full((self.num_heads,), -torch.inf), persistent=False
        )

    @property
    def record_max_logits(self) -> bool:
        """Whether forward passes raise ``max_logits``; QK-clip turns it on where it acts."""
        return self._records

    @record_max_logits.setter
    def record_max_logits(self, record: bool) -> None:
        self.measurable = self.measurable or record
        self._records = record
        self._recording.fill_(record)

    def self_attention(
        self,
        x: Float[Tensor, "T E"],
        layout: Layout,
        rotary: Rotary | None,
        rows: Int[Tensor, " N"] | None,
    ) -> Float[Tensor, "N E"]:
        """Project, turn, attend, project back; records the largest logits if that is on.

        ``rows``: which tokens are projected back, by default all.
        """
        q, k, v = self.qkv(x).unflatten(-1, (self.num_heads, 3, self.head_dim)).unbind(2)
        if rotary is not None:
            q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        q, k = self.scale_heads(q, k)
        # A graph must not depend on whether this step records: it would be compiled twice.
        if self.measurable if torch.compiler.is_compiling() else self._records:
            self._record(q, k, layout)
        dropout = self.attention_dropout if self.training else 0.0
        return self.wo(select_rows(attend(q, k, v, layout, self.scale, dropout).flatten(1), rows))

    def scale_heads(
        self, q: Float[Tensor, "T H D"], k: Float[Tensor, "T H D"]
    ) -> tuple[Float[Tensor, "T H D"], Float[Tensor, "T H D"]]:
        """Nothing here; nGPT's blocks put queries and keys on the unit sphere."""
        return q, k

    @torch.no_grad()
    def _record(self, q: Tensor, k: Tensor, layout: Layout) -> None:
        # A maximum: a second pass over the same tokens, as gradient checkpointing makes, changes
        # nothing.
        self.max_logits.copy_(
            raised_max_logits(
                self.max_logits, self._recording, q, k, layout, self.scale, self.qk_chunk_size
            )
        )

    def reset_max_logits(self) -> None:
        """Forget what was recorded: ``max_logits`` is -inf until the next recorded pass."""
        self.max_logits.fill_(-torch.inf)


def select_rows(x: Float[Tensor, "T E"], rows: Int[Tensor, " N"] | None) -> Float[Tensor, "N E"]:
    """The ``rows`` of ``x``, by default all."""
    return x if rows is None else x.index_select(0, rows)
