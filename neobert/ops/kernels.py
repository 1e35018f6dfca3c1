"""What this machine can run: hardware and optional packages, asked here and nowhere else."""

from functools import cache

import torch


@cache
def cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 matrices in hardware (AVX512-BF16, AMX, or ARM's)."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())
