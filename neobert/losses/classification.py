"""Losses of fine-tuning: cross-entropy of one or of several classes, squared error; summed.

Sums, because micro-batches and ranks hold unequal numbers of examples: the caller divides by the
examples of the whole optimizer step.

Letters: S documents with a label, C classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def classification_loss(
    scores: Float[Tensor, "S C"], labels: Int[Tensor, " S"]
) -> Float[Tensor, ""]:
    """Cross-entropy in nats, summed over the documents; fp32 or better.

    Without documents it is 0 and still has a gradient, of zeros.
    """
    exact = torch.promote_types(scores.dtype, torch.float32)
    return F.cross_entropy(scores.to(exact), labels, reduction="sum")


def multi_label_loss(
    scores: Float[Tensor, "S C"], labels: Float[Tensor, "S C"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy in nats, the mean over the classes, summed over the documents."""
    exact = torch.promote_types(scores.dtype, torch.float32)
    losses = F.binary_cross_entropy_with_logits(scores.to(exact), labels.to(exact), reduction="sum")
    return losses / scores.shape[1]


def regression_loss(scores: Float[Tensor, "S 1"], labels: Float[Tensor, " S"]) -> Float[Tensor, ""]:
    """Squared error, summed over the documents; fp32 or better."""
    exact = torch.promote_types(scores.dtype, torch.float32)
    return F.mse_loss(scores[:, 0].to(exact), labels.to(exact), reduction="sum")
