"""From the tokens of packed documents to one vector for each document.

Letters: T tokens of all documents together, S documents, E model width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neobert.ops.attention import document_of_token


def pool(
    hidden: Float[Tensor, "T E"], cu_seqlens: Int[Tensor, " bounds"], how: str
) -> Float[Tensor, "S E"]:
    """A vector per document: the mean of its tokens (``avg``), the first (``cls``), or ``max``.

    ``max`` takes the largest value of each channel; equal ones share the gradient. A document
    without tokens becomes zeros. At least fp32, whatever ``hidden`` is: sums of many bf16 numbers
    lose their small ones, and so would the similarities made of them.
    """
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    lengths = cu_seqlens.diff().to(torch.int64)  # (S,)
    match how:
        case "avg":
            return _summed(hidden, cu_seqlens) / lengths.clamp(min=1)[:, None]
        case "cls":
            first = cu_seqlens[:-1].clamp(max=len(hidden) - 1).to(torch.int64)
            return hidden.index_select(0, first) * (lengths > 0)[:, None]
        case "max":
            return _largest(hidden, cu_seqlens)
        case _:
            raise ValueError(f"pooling {how!r}: must be avg, cls or max")


def _summed(hidden: Float[Tensor, "T E"], bounds: Int[Tensor, " bounds"]) -> Float[Tensor, "S E"]:
    sums = hidden.new_zeros(len(bounds) - 1, hidden.shape[1])
    return sums.index_add(0, document_of_token(bounds, len(hidden)), hidden)


def _largest(hidden: Float[Tensor, "T E"], bounds: Int[Tensor, " bounds"]) -> Float[Tensor, "S E"]:
    zeros = hidden.new_zeros(len(bounds) - 1, hidden.shape[1])
    owners = document_of_token(bounds, len(hidden))[:, None].expand_as(hidden)
    return zeros.scatter_reduce(0, owners, hidden, "amax", include_self=False)
