"""The loss of masked-language modelling: cross-entropy at the masked positions, summed.

A sum, because micro-batches and ranks hold unequal numbers of targets: the caller divides by the
targets of the whole optimizer step, and the mean over tokens is exact.

Letters: T tokens, K rows to predict, E width, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from neobert.batch import IGNORE
from neobert.ops.cross_entropy import linear_cross_entropy


@dataclass(frozen=True, slots=True)
class MaskedLMLoss:
    """What a batch adds to loss and accuracy: tensors, so that nothing waits for the device."""

    sum: Float[Tensor, ""]
    """Cross-entropies of the targets in nats, summed; fp32 or better."""

    correct: Int[Tensor, ""]
    """Targets whose original id has the highest logit."""

    count: Int[Tensor, ""]
    """Targets: labels that are not ``IGNORE``."""


def masked_lm_loss(
    hidden: Float[Tensor, "K E"],
    decoder_weight: Float[Tensor, "V E"],
    labels: Int[Tensor, " K"],
    decoder_bias: Float[Tensor, " V"] | None = None,
    kernel_backend: str = "torch",
) -> MaskedLMLoss:
    """Compare the hidden states of the masked tokens with the vocabulary, a chunk at a time.

    Against :func:`full_logits_loss` this saves ``(T - K) V`` logits. Without targets the sum is 0
    and still has a gradient (of zeros), as every rank of a distributed run must have.
    """
    if decoder_bias is not None:
        # One more channel that is always 1: the bias is then a column of the weight.
        hidden = torch.cat((hidden, torch.ones_like(hidden[:, :1])), dim=1)
        decoder_weight = torch.cat((decoder_weight, decoder_bias[:, None]), dim=1)
    total, correct = linear_cross_entropy(
        hidden, decoder_weight, labels, kernel_backend=kernel_backend
    )
    return MaskedLMLoss(total, correct, (labels != IGNORE).sum())


def full_logits_loss(
    hidden: Float[Tensor, "T E"],
    decoder_weight: Float[Tensor, "V E"],
    positions: Int[Tensor, " K"],
    labels: Int[Tensor, " K"],
    decoder_bias: Float[Tensor, " V"] | None = None,
) -> MaskedLMLoss:
    """The same loss from the logits of every token: the reference, T / K times the work."""
    exact = torch.promote_types(hidden.dtype, torch.float32)
    logits = F.linear(hidden, decoder_weight, decoder_bias).to(exact)  # (T, V)
    everywhere = labels.new_full((len(hidden),), IGNORE)
    # The maximum, since a filler row may point at a position that has a real label.
    everywhere = everywhere.scatter_reduce(0, positions, labels, "amax")
    total = F.cross_entropy(logits, everywhere, ignore_index=IGNORE, reduction="sum")
    correct = (logits.argmax(-1) == everywhere).sum()
    return MaskedLMLoss(total, correct, (labels != IGNORE).sum())
