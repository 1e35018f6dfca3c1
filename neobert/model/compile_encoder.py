"""``torch.compile`` for the encoder.

Its blocks and the final norm become one graph. The layout of the documents, made eagerly once per
batch, enters it as tensors whose lengths are declared to vary, so packed batches never recompile.
The loss stays outside: its work is three matrix products, which no compiler speeds up.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from neobert.model.encoder import Encoder
from neobert.model.self_attention import Rotary
from neobert.ops.attention import Layout


def compile_encoder(encoder: Encoder, backend: str, dynamic: bool | None = None) -> None:
    """Make ``encoder`` run as one graph from its next batch on.

    ``backend`` and ``dynamic`` are those of ``torch.compile``. With ``dynamic=None`` only the
    lengths that vary are dynamic: the number of documents, and of unpacked batches the number of
    tokens. ``False`` recompiles for each new length, ``True`` treats every size as unknown.
    """
    compiled = torch.compile(encoder.run_blocks, backend=backend, dynamic=dynamic, fullgraph=True)

    def run(
        x: Float[Tensor, "T E"], layout: Layout, rotary: Rotary | None, packed: bool
    ) -> Float[Tensor, "T E"]:
        if dynamic is None:
            _mark_lengths(x, layout, rotary, packed)
        return compiled(x, layout, rotary)

    encoder.compiled = run


def _mark_lengths(x: Tensor, layout: Layout, rotary: Rotary | None, packed: bool) -> None:
    """Say which lengths differ from batch to batch, before the first one makes them constants."""
    torch._dynamo.maybe_mark_dynamic(layout.cu_seqlens, 0)
    if packed:
        return
    for tensor in (x, layout.is_text, *(rotary or ())):
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    if layout.rectangle is not None:
        for tensor in (layout.rectangle.mask, layout.rectangle.index, layout.rectangle.inverse):
            if tensor is not None:
                torch._dynamo.maybe_mark_dynamic(tensor, [0, tensor.ndim - 1])
