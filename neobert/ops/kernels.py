"""What this machine can run: hardware and optional packages, queried here and nowhere else.

``model.attn_backend`` and ``model.kernel_backend`` say what the user wants;
:func:`resolve_attention` and :func:`liger_runs` resolve them for a device.
"""

import platform
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

from neobert.errors import ConfigError

AttentionKernel = Literal["documents", "dense", "flash_attn", "torch_varlen"]
HAS_LIGER = find_spec("liger_kernel") is not None
"""The package liger-kernel is installed. A constant, which ``torch.compile`` reads at no cost."""

FLASH_CAPABILITY = (8, 0)
"""Compute capability that the flash kernels need: Ampere."""

FLASH_WIDTH = 256
"""Widest head that the flash kernels take. PyTorch's needs a multiple of 8; flash-attn pads."""


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """Which attention runs, and why."""

    kernel: AttentionKernel
    reason: str
    """One line for the user."""


@cache
def resolve_attention(
    backend: str, device: torch.device, dtype: torch.dtype, dropout: bool, head_dim: int
) -> AttentionChoice:
    """Choose the attention for tensors of ``dtype`` on ``device`` under ``model.attn_backend``.

    ``flash_attn_varlen`` takes the flash-attn package, else PyTorch's own kernel of that kind, and
    falls back to what ``sdpa`` stands for where neither can run: each document by itself on a
    CPU, SDPA under a block-diagonal mask on a GPU.
    """
    portable: AttentionKernel = "documents" if device.type == "cpu" else "dense"
    kernel, reason = portable, None
    if backend != "sdpa":
        reason = _why_no_flash(device, dtype, head_dim)
        if reason is None and find_spec("flash_attn") is not None:
            kernel = "flash_attn"
        elif reason is None and (reason := _why_no_torch_varlen(dropout, head_dim)) is None:
            kernel = "torch_varlen"
    why = "" if reason is None else f", since model.attn_backend={backend} {reason}"
    return AttentionChoice(kernel, f"attention: {DESCRIPTIONS[kernel]}{why}")


DESCRIPTIONS: dict[AttentionKernel, str] = {
    "documents": "document by document",
    "dense": "SDPA under a block-diagonal mask",
    "flash_attn": "the flash-attn package",
    "torch_varlen": "torch.nn.attention.varlen",
}


def liger_runs(backend: str, device: torch.device) -> bool:
    """Tell whether Liger's kernels run on ``device`` under ``model.kernel_backend``.

    Raises ``ConfigError`` where they are demanded and cannot.
    ``auto`` leaves them out of compiled graphs, where inductor fuses the same operations itself.
    """
    if backend == "torch":
        return False
    if backend == "auto":
        return HAS_LIGER and device.type == "cuda" and not torch.compiler.is_compiling()
    reason = why_no_liger(device)
    if reason is not None:
        raise ConfigError(
            f"model.kernel_backend=liger {reason}; use model.kernel_backend=auto to run without"
        )
    return True


def why_no_liger(device: torch.device) -> str | None:
    """Why Liger cannot run on ``device``; ``None`` where it can."""
    if not HAS_LIGER:
        return "needs the package liger-kernel: pip install 'neobert[liger]'"
    if device.type != "cuda" and not interprets_triton():
        return "needs an NVIDIA GPU"
    return None


def interprets_triton() -> bool:
    """Tell whether Triton runs its kernels in Python, as the tests do on machines without a GPU."""
    if find_spec("triton") is None:
        return False
    from triton import knobs  # optional, and slow to import

    return bool(knobs.runtime.interpret)


@cache
def cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 matrices in hardware (AVX512-BF16, AMX, or ARM's).

    oneDNN's answer is yes for every CPU with AVX-512, the older of which emulate bf16.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if supported is None or not supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@cache
def cpu_has_vnni() -> bool:
    """Tell whether this CPU adds up products of 8-bit integers in 32 bits.

    Without these instructions sums of two products saturate at 16 bits.
    """
    return torch.cpu._is_vnni_supported()


def _why_no_flash(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    if device.type != "cuda":
        return "needs an NVIDIA GPU"
    if torch.cuda.get_device_capability(device) < FLASH_CAPABILITY:
        return "needs a GPU of compute capability 8.0 (Ampere) or newer"
    if dtype not in (torch.bfloat16, torch.float16):
        return "needs half precision (trainer.mixed_precision=bf16)"
    if head_dim > FLASH_WIDTH:
        return f"needs heads of a width of at most {FLASH_WIDTH}, not {head_dim}"
    return None


def _why_no_torch_varlen(dropout: bool, head_dim: int) -> str | None:
    if find_spec("torch.nn.attention.varlen") is None:
        return "needs the package flash-attn with this version of PyTorch"
    if dropout:
        return "needs the package flash-attn for model.dropout_prob > 0"
    if head_dim % 8:
        return f"needs the package flash-attn for heads of width {head_dim}, no multiple of 8"
    return None
