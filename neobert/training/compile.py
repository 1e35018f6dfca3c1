"""``trainer.torch_compile``: where it is skipped, as the reference documents, and why in one
line."""

import shutil

from neobert.config.trainer import TrainerConfig
from neobert.console import get_logger
from neobert.model.compile_encoder import compile_blocks, compile_encoder
from neobert.model.encoder import Encoder
from neobert.training.strategy import StrategyChoice

log = get_logger(__name__)


def compile_if_enabled(encoder: Encoder, settings: TrainerConfig, strategy: StrategyChoice) -> bool:
    """Compile ``encoder`` if the settings request it and it is supported; return whether it was."""
    if not settings.torch_compile:
        return False
    reason = _why_not_compiled(settings, strategy)
    if reason is not None:
        log.warning("trainer.torch_compile is skipped: %s", reason)
        return False
    by_block = strategy.name == "fsdp2"
    compile_ = compile_blocks if by_block else compile_encoder
    compile_(encoder, settings.torch_compile_backend, settings.torch_compile_dynamic)
    what = "torch.compile of each block" if by_block else "torch.compile"
    log.info("compile: %s with %s", what, settings.torch_compile_backend)
    return True


def _why_not_compiled(settings: TrainerConfig, strategy: StrategyChoice) -> str | None:
    if strategy.is_deepspeed:
        return "DeepSpeed is active"
    if settings.torch_compile_backend != "inductor":
        return None
    if not strategy.on_cuda and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return "inductor needs a C++ compiler on a CPU (g++ or clang++), and there is none"
    return None
