"""The two normalisations of the blocks, by ``model.rms_norm``."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neobert.config.model import ModelConfig
from neobert.ops.norm import rms_norm


class RMSNorm(nn.Module):
    """``weight * x / rms(x)``, without bias."""

    def __init__(self, width: int, eps: float, kernel_backend: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.kernel_backend = eps, kernel_backend

    def forward(self, x: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        return rms_norm(x, self.weight, self.eps, self.kernel_backend)


def build_norm(config: ModelConfig) -> nn.Module:
    """RMSNorm, or LayerNorm with bias, over ``model.hidden_size``."""
    if config.rms_norm:
        return RMSNorm(config.hidden_size, config.norm_eps, config.kernel_backend)
    return nn.LayerNorm(config.hidden_size, config.norm_eps)
