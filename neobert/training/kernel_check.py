"""Kernels that a run requires, checked before anything is loaded."""

import torch

from neobert.config.root import Config
from neobert.ops.kernels import liger_runs
from neobert.training.strategy import runs_on_cuda


def check_kernels(config: Config) -> None:
    """Raise ``ConfigError`` where ``model.kernel_backend=liger`` cannot be had on this machine."""
    device = torch.device("cuda" if runs_on_cuda(config.trainer) else "cpu")
    liger_runs(config.model.kernel_backend, device)
