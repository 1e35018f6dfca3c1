"""The NeoBERT encoder (arXiv 2502.19587): token ids of packed documents in, hidden states out.

Letters: T tokens of all documents together, N tokens whose state is requested, E model width,
V vocabulary, P longest document.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neobert.batch import PackedBatch
from neobert.config.model import ModelConfig
from neobert.console import get_logger
from neobert.model.block import Block, build_norm
from neobert.model.ngpt import NormalizedBlock, normalize_
from neobert.model.self_attention import Rotary, SelfAttention
from neobert.ops.attention import Layout, lay_out
from neobert.ops.kernels import liger_runs, resolve_attention
from neobert.ops.rotary import rotary_table

log = get_logger(__name__)

BlockRunner = Callable[[Tensor, Layout, Rotary | None, Tensor | None], Tensor]


class Encoder(nn.Module):
    """Embedding, blocks, final norm (nGPT has none).

    Attributes carry the names of the published weights.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int) -> None:
        super().__init__()
        self.config = replace(config, vocab_size=vocab_size, pad_token_id=pad_token_id)
        self.vocab_size, self.pad_token_id = vocab_size, pad_token_id
        self.gradient_checkpointing = False
        """Recompute each block in the backward pass instead of keeping what it computed."""

        self.compiled: BlockRunner | None = None
        """Runs instead of :meth:`run_blocks` in training (:mod:`neobert.model.compile_encoder`)."""

        self.attention: str | None = None
        """The attention that the latest batch ran with."""

        self._told: set[str] = set()
        width = config.hidden_size
        self.encoder = nn.Embedding(vocab_size, width, padding_idx=pad_token_id)
        if not config.rope:
            # Row 0 is for padding.
            self.positional_embedding = nn.Embedding(
                config.max_position_embeddings + 1, width, padding_idx=0
            )
        kind = NormalizedBlock if config.ngpt else Block
        self.transformer_encoder = nn.ModuleList(
            kind(config) for _ in range(config.num_hidden_layers)
        )
        self.layer_norm = nn.Identity() if config.ngpt else build_norm(config)
        self.apply(self._initialise)
        if config.ngpt:
            normalize_(self)

    def forward(
        self, batch: PackedBatch, rows: Int[Tensor, " N"] | None = None
    ) -> Float[Tensor, "N E"]:
        """Final hidden states of the tokens at ``rows``, by default of all T.

        The pad documents of packed rows come along. What the last block computes token by token,
        its output projection and feed-forward layer, it computes for ``rows`` alone.
        """
        layout, rotary = self._lay_out(batch), None
        if self.config.rope:
            theta, scaling = self.config.rope_theta, self.config.rope_scaling
            rotary = rotary_table(batch.position_ids, self._head_dim, theta, scaling)
            x = self.encoder(batch.input_ids)
        else:
            x = self.encoder(batch.input_ids) + self.positional_embedding(self._table_rows(batch))
        if self.compiled is not None and self.training:
            return self.compiled(x, layout, rotary, rows)
        return self.run_blocks(x, layout, rotary, rows)

    def run_blocks(
        self,
        x: Float[Tensor, "T E"],
        layout: Layout,
        rotary: Rotary | None,
        rows: Int[Tensor, " N"] | None,
    ) -> Float[Tensor, "N E"]:
        """The part with the work: tensors in, tensors out, made for ``torch.compile``."""
        for block in self.transformer_encoder:
            # Attention of the next block reads every token.
            outputs = rows if block is self.transformer_encoder[-1] else None
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, layout, rotary, outputs, use_reentrant=False)
            else:
                x = block(x, layout, rotary, outputs)
        return self.layer_norm(x)

    def set_rope(self, theta: float, scaling: Mapping[str, object]) -> None:
        """Other rotary frequencies from the next batch on."""
        self.config = replace(self.config, rope_theta=theta, rope_scaling=dict(scaling))

    def attention_layers(self) -> list[SelfAttention]:
        """The blocks as what QK-clip sees in them."""
        return [block for block in self.transformer_encoder if isinstance(block, SelfAttention)]

    @property
    def _head_dim(self) -> int:
        return self.config.hidden_size // self.config.num_attention_heads

    def _lay_out(self, batch: PackedBatch) -> Layout:
        """For the attention backend of the current precision; a change of it is logged."""
        device = batch.input_ids.device
        # Raises where Liger is demanded and absent, also for a model none of whose parts has it.
        liger_runs(self.config.kernel_backend, device)
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else self.encoder.weight.dtype
        dropout = self.training and self.config.dropout_prob > 0
        backend, head_dim = self.config.attn_backend, self._head_dim
        choice = resolve_attention(backend, device, dtype, dropout, head_dim)
        self.attention = choice.kernel
        if self.config.attn_backend != "sdpa" and choice.reason not in self._told:
            self._told.add(choice.reason)
            log.info(choice.reason)
        return lay_out(batch, choice.kernel, self.pad_token_id)

    def _table_rows(self, batch: PackedBatch) -> Int[Tensor, " T"]:
        """Rows of the learned table: 1, 2, … within each document, 0 for pad ids."""
        rows = (batch.position_ids + 1).where(batch.input_ids != self.pad_token_id, 0)
        longest = self.config.max_position_embeddings
        # Rows of packed documents may be longer than the table (on a GPU, the check waits).
        if batch.max_seqlen > longest and (length := int(rows.max())) > longest:
            raise ValueError(
                f"a document of {length} tokens is longer than "
                f"model.max_position_embeddings={longest}: shorten it (dataset.max_seq_length), or "
                "train with model.rope=true, which has no such table"
            )
        return rows

    @torch.no_grad()
    def _initialise(self, module: nn.Module) -> None:
        """Uniform within plus and minus the configured half-width; the norms start at 1."""
        match module:
            case nn.Embedding():
                half_width = self.config.embedding_init_range
            case nn.Linear():
                half_width = self.config.decoder_init_range
            case _:
                return
        nn.init.uniform_(module.weight, -half_width, half_width)
