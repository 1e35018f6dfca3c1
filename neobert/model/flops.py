"""Floating-point operations of training, counted from the model and the documents it saw.

Forward and backward pass of the matrix products, an addition and a multiplication counted as two:
6 per weight and token (Kaplan et al., arXiv 2001.08361, section 2.1) and 12 E per layer and pair of
tokens that see each other (PaLM, arXiv 2204.02311, appendix B). What is computed twice (gradient
checkpointing), for padding, or without a matrix product does not count.

Letters: E model width, L layers, V vocabulary.
"""

from dataclasses import dataclass

from torch import nn

from neobert.model.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Flops:
    """What a training step costs, by what it is proportional to."""

    per_token: float
    """The blocks' matrices: 6 operations per weight."""

    per_pair: float
    """Attention, for each pair of tokens of one document: 12 L E."""

    per_target: float
    """The decoder, for each predicted token: 6 V E."""

    def of(self, tokens: float, pairs: float, targets: float) -> float:
        """Operations for so many tokens, pairs and targets together."""
        return self.per_token * tokens + self.per_pair * pairs + self.per_target * targets


def training_flops(encoder: Encoder) -> Flops:
    """Count for ``encoder`` and a decoder over its vocabulary."""
    blocks = encoder.transformer_encoder
    weights = sum(
        layer.weight.numel() for layer in blocks.modules() if isinstance(layer, nn.Linear)
    )
    width = encoder.config.hidden_size
    return Flops(
        per_token=6.0 * weights,
        per_pair=12.0 * len(blocks) * width,
        per_target=6.0 * encoder.vocab_size * width,
    )
