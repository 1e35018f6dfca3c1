"""``torch.compile`` for the encoder.

Its blocks and the final norm become one graph. The layout of the documents, made eagerly once per
batch, enters it as tensors whose lengths are declared to vary, so packed batches never recompile.
Steps that measure attention logits for QK-clip share the graph with those that do not
(:func:`neobert.ops.attention.raised_max_logits`). The loss stays outside: its work is three matrix
products, which no compiler speeds up.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neobert.model.encoder import BlockRunner, Encoder
from neobert.model.self_attention import Rotary
from neobert.ops.attention import Layout


def compile_encoder(encoder: Encoder, backend: str, dynamic: bool | None = None) -> None:
    """Make ``encoder`` run as one graph from its next batch on.

    ``backend`` and ``dynamic`` are those of ``torch.compile``. With ``dynamic=None`` only the
    lengths that vary are dynamic: the number of documents, and of unpacked batches the number of
    tokens. ``False`` recompiles for each new length, ``True`` treats every size as unknown.
    """
    encoder.compiled = _compiled(encoder.run_blocks, encoder, backend, dynamic)


def compile_blocks(encoder: Encoder, backend: str, dynamic: bool | None = None) -> None:
    """Make each block of ``encoder`` a graph of its own, for weights that come and go.

    FSDP2 gathers a block's weights in hooks around it, which no graph may hold; what is compiled
    is what runs between them (as torchtitan does). Call it before the blocks are sharded. In
    pretraining all but the last block, which computes less, share a graph.
    """
    for block in encoder.attention_layers():
        block.forward = _compiled(block.forward, block, backend, dynamic)
    encoder.compiled = encoder.run_blocks


def _compiled(
    plain: BlockRunner, module: nn.Module, backend: str, dynamic: bool | None
) -> BlockRunner:
    """``plain``, a method of ``module``, which runs as a graph in training."""
    compiled = torch.compile(plain, backend=backend, dynamic=dynamic, fullgraph=True)

    def run(
        x: Float[Tensor, "T E"],
        layout: Layout,
        rotary: Rotary | None,
        rows: Int[Tensor, " N"] | None,
    ) -> Float[Tensor, "N E"]:
        if not module.training or _has_constant_length(x, rows):
            return plain(x, layout, rotary, rows)
        if dynamic is None:
            _mark_lengths(x, layout, rotary, rows)
        return compiled(x, layout, rotary, rows)

    return run


def _has_constant_length(x: Tensor, rows: Tensor | None) -> bool:
    """Whether ``torch.compile`` would make a graph for this batch alone, as it does for sizes 0
    and 1: that of a rank that no row is left for, which is one pad token.
    """
    return len(x) < 2 or (rows is not None and len(rows) < 2)


def _mark_lengths(x: Tensor, layout: Layout, rotary: Rotary | None, rows: Tensor | None) -> None:
    """Say which lengths differ from batch to batch, before the first one makes them constants."""
    # The mask rate changes from stage to stage, also where the rows do not.
    for tensor in (layout.cu_seqlens, *(() if rows is None else (rows,))):
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    if layout.row_length is not None:  # packed
        return
    for tensor in (x, layout.is_text, *(rotary or ())):
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    if layout.rectangle is not None:
        for tensor in (layout.rectangle.mask, layout.rectangle.index, layout.rectangle.inverse):
            if tensor is not None:
                torch._dynamo.maybe_mark_dynamic(tensor, [0, tensor.ndim - 1])
