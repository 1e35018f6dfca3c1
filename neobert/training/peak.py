"""The rate of matrix products that the hardware can reach: what MFU is measured against.

The datasheet's on GPUs that are known, the measured rate on a CPU. Lightning's table
(``lightning.fabric.utilities.throughput``) would not do: 2.6 takes an L40 for an L4 (121 TFLOP/s
of 181) and an RTX A1000 for an A100, counts sparsity for an H100 NVL, and finds no H200.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

DATASHEET = {
    # name: TFLOP/s, dense: bf16/fp16, TF32, fp32
    "GH200": (989.4, 494.7, 66.9),
    "H200": (989.4, 494.7, 66.9),
    "H100 NVL": (835.5, 417.7, 60.0),
    "H100 PCIe": (756.5, 378.0, 51.2),
    "H100": (989.4, 494.7, 66.9),
    "A100": (312.0, 156.0, 19.5),
    "A10G": (70.0, 35.0, 31.2),
    "A10": (125.0, 62.5, 31.2),
    "L40S": (362.0, 183.0, 91.6),
    "L40": (181.0, 90.5, 90.5),
    "L4": (121.0, 60.0, 30.3),
    "V100": (125.0, 15.7, 15.7),
    "T4": (65.0, 8.1, 8.1),
}
"""NVIDIA's datasheets, without sparsity. The first name that is a word of the device's
counts: an RTX A1000 is no A100."""

GEMM = (2048, 1024, 2048)
"""Rows, inner width, columns of the product that is timed on a CPU: 8.6 GFLOP."""


@dataclass(frozen=True, slots=True)
class Peak:
    """FLOP/s that matrix products can reach, and how that is known."""

    flops: float
    source: str


def find_peak(device: torch.device, precision: str) -> Peak | None:
    """Peak of ``device`` for a Lightning ``precision``; ``None`` for a GPU that is not known."""
    half = precision.startswith(("bf16", "16"))
    if device.type == "cpu":
        dtype = torch.bfloat16 if half else torch.float32
        return Peak(gemm_rate(dtype), f"measured {str(dtype).removeprefix('torch.')} GEMM rate")
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    tf32 = torch.get_float32_matmul_precision() != "highest"
    for known, rates in DATASHEET.items():
        if re.search(rf"\b{known}\b", name):
            place = 0 if half else 1 if tf32 else 2
            kind = ("bf16 and fp16", "TF32", "fp32")[place]
            return Peak(rates[place] * 1e12, f"datasheet of {known}, {kind}")
    return None


def gemm_rate(
    dtype: torch.dtype,
    repeats: int = 3,
    device: torch.device | None = None,
    clock: Callable[[], float] | None = None,
) -> float:
    """FLOP/s of the fastest of ``repeats`` products of :data:`GEMM`: on the CPU, or on a GPU with
    each side eight times as long. ``clock`` tells the time in seconds (the wall clock's).
    """
    device, clock = device or torch.device("cpu"), clock or time.perf_counter
    on_gpu = device.type == "cuda"
    rows, inner, columns = (8 * size if on_gpu else size for size in GEMM)
    a = torch.ones(rows, inner, dtype=dtype, device=device)
    b = torch.ones(columns, inner, dtype=dtype, device=device)
    torch.nn.functional.linear(a, b)  # the first one allocates and starts the threads
    best = float("inf")
    for _ in range(repeats):
        if on_gpu:
            torch.cuda.synchronize(device)
        start = clock()
        torch.nn.functional.linear(a, b)
        if on_gpu:
            torch.cuda.synchronize(device)
        best = min(best, clock() - start)
    return 2 * rows * inner * columns / best
