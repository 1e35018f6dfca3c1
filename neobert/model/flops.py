"""Floating-point operations of training, counted from the model and the documents it saw.

Forward and backward pass of the matrix products, an addition and a multiplication counted as two:
6 per weight and token (Kaplan et al., arXiv 2001.08361, section 2.1) and 12 E per layer and pair of
tokens that see each other (PaLM, arXiv 2204.02311, appendix B). What is computed twice (gradient
checkpointing), for padding, or without a matrix product does not count, nor what the last block
leaves out (:meth:`neobert.model.encoder.Encoder.forward`).

Letters: E model width, L layers, V vocabulary.
"""

from dataclasses import dataclass

from torch import nn

from neobert.model.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Flops:
    """What a training step costs, by what it is proportional to."""

    per_token: float
    """The blocks' matrices, less ``per_state``: 6 operations per weight."""

    per_pair: float
    """Attention, for each pair of tokens of one document: 12 L E."""

    per_state: float
    """Output projection and feed-forward layer of the last block, for each token whose final hidden
    state is computed."""

    per_target: float
    """The decoder, for each predicted token: 6 V E."""

    def of(self, tokens: float, pairs: float, targets: float, states: float) -> float:
        """Operations for so many tokens, pairs, targets and final hidden states together."""
        return (
            self.per_token * tokens
            + self.per_pair * pairs
            + self.per_state * states
            + self.per_target * targets
        )


def training_flops(encoder: Encoder) -> Flops:
    """Count for ``encoder`` and a decoder over its vocabulary."""
    blocks = encoder.transformer_encoder
    last = encoder.attention_layers()[-1]
    of_states = _weights(last) - _weights(last.qkv)
    width = encoder.config.hidden_size
    return Flops(
        per_token=6.0 * (_weights(blocks) - of_states),
        per_pair=12.0 * len(blocks) * width,
        per_state=6.0 * of_states,
        per_target=6.0 * encoder.vocab_size * width,
    )


def _weights(part: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in part.modules() if isinstance(layer, nn.Linear))
