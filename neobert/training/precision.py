"""Which numbers a run computes with. One of the automatic choices; made here and nowhere else.

``bf16`` means mixed precision with fp32 master weights. A CPU without bf16 instructions
(AVX512-BF16, AMX) computes it about ten times slower than fp32, so there ``bf16`` runs as fp32
unless ``trainer.emulate_bf16`` insists.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import HalfPrecision

from neobert.config.trainer import TrainerConfig
from neobert.ops.kernels import cpu_has_bf16

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Precision:
    """The precision passed to the Trainer, and why it differs from the requested one."""

    lightning: str
    """A value of Lightning's ``Trainer(precision=…)``."""

    reason: str | None = None
    """One line for the user where the choice differs from ``trainer.mixed_precision``."""


def resolve_precision(config: TrainerConfig, on_cuda: bool) -> Precision:
    """Translate ``trainer.mixed_precision`` for the device that runs."""
    match config.mixed_precision:
        case "no":
            return Precision("32-true")
        case "fp16":
            return Precision("16-mixed")
        case "bf16-true":
            return Precision("bf16-true")
        case "bf16" if on_cuda or config.emulate_bf16 or cpu_has_bf16():
            return Precision("bf16-mixed")
        case "bf16":
            return Precision(
                "32-true",
                "precision: fp32, since this CPU has no bf16 instructions and would be slower in "
                "bf16 (trainer.emulate_bf16=true to use it all the same)",
            )
        case other:
            raise ValueError(f"trainer.mixed_precision has no case for {other!r}")


class IdsInHalf(HalfPrecision):
    """Lightning's ``bf16-true`` for batches that hold ids only: there is nothing to convert."""

    def convert_input(self, data: Batch) -> Batch:
        return data


def take_batches_as_they_are(trainer: Trainer) -> None:
    """Lightning converts batches for ``bf16-true``, and cannot: ours are frozen."""
    if type(trainer.precision_plugin) is HalfPrecision:
        trainer.strategy.precision_plugin = IdsInHalf(trainer.precision_plugin.precision)


def set_tf32(enabled: bool) -> None:
    """Let fp32 matrix products use TF32 on GPUs that have it (compute capability 8 and up)."""
    torch.set_float32_matmul_precision("high" if enabled else "highest")
