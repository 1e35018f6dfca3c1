"""Gradient clipping and the gradient's norm, the same for every task."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from neobert.training.strategy_deepspeed import clips_itself


def clip_gradients(module: torch.nn.Module, limit: float | int | None) -> Tensor:
    """Scale all gradients so that their L2 norm together is at most ``limit`` (``None``: no limit).

    Returns the norm before clipping, a scalar. Own, since Lightning's clipping refuses fused
    optimizers under mixed precision and does not tell the norm.
    """
    deepspeed = clips_itself(module)
    if deepspeed is not None:
        return deepspeed.note_norm(module)
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
    return norm.full_tensor() if isinstance(norm, DTensor) else norm  # sharded gradients
