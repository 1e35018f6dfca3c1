"""The tiny model of the golden values, and a fill of weights that needs no file."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from neobert.config.model import ModelConfig

MASK = 2**32 - 1


@pytest.fixture
def tiny() -> Callable[..., ModelConfig]:
    """Width 16, two layers of two heads, untied; ``tiny(rope=False)`` changes what is named."""

    def make(**changes: object) -> ModelConfig:
        settings = {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "max_position_embeddings": 32,
            "tie_word_embeddings": False,
            "norm_eps": 1e-5,
        }
        return ModelConfig(**(settings | changes))

    return make


@pytest.fixture
def fill() -> Callable[[nn.Module], nn.Module]:
    """Give every weight a value that follows from its place in the sorted state dict."""
    return fill_weights


@torch.no_grad()
def fill_weights(module: nn.Module) -> nn.Module:
    state = module.state_dict()
    for number, name in enumerate(sorted(state)):
        element = torch.arange(state[name].numel(), dtype=torch.int64)
        mixed = (element * 2654435761 + (number + 1) * 2246822519) & MASK
        mixed ^= mixed >> 15
        # The product of two 32-bit numbers overflows int64 only above bit 63: the low bits stay.
        mixed = (mixed * 2246822519) & MASK
        mixed ^= mixed >> 13
        values = mixed.double() / 2**32 - 0.5
        if name.endswith("norm.weight"):
            values = 1 + 0.5 * values
        state[name].copy_(values.view_as(state[name]))
    return module.eval()
