"""Large contrastive batches in the memory of small ones: GradCache (arXiv 2101.06983).

The loss needs the vectors of the whole batch at once, but the encoder does not. Texts are encoded
in chunks that keep nothing but their vectors; when the loss has given each vector its gradient, the
chunks are encoded once more, one after the other, now for their gradients. So the peak is that of
one chunk, the price a second forward pass, and loss and gradients are those of the whole batch.

Each chunk is a checkpoint of PyTorch's, which does just that, draws the same dropout both times,
and leaves a single backward pass, so that accumulation and data parallelism need no care.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from neobert.batch import PackedBatch
from neobert.model.encoder import Encoder
from neobert.ops.pooling import pool
from neobert.tasks.contrastive.batches import Texts


def encode_texts(encoder: Encoder, texts: Texts, pooling: str) -> Float[Tensor, "S E"]:
    """A vector for each of ``texts``, in their order."""
    parts = texts.parts()
    if len(parts) == 1 or not torch.is_grad_enabled():
        vectors = [_encode(encoder, part, pooling) for part in parts]
    else:
        vectors = [
            checkpoint(_encode, encoder, part, pooling, use_reentrant=False) for part in parts
        ]
    return torch.cat(vectors).index_select(0, texts.places)


def _encode(encoder: Encoder, part: PackedBatch, pooling: str) -> Float[Tensor, "S E"]:
    return pool(encoder(part), part.cu_seqlens, pooling)
