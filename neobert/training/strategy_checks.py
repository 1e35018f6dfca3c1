"""What cannot run together with a strategy: each with the reason, and what to do instead."""

import importlib.util
from pathlib import Path

from neobert.config.checks import require
from neobert.config.root import Config
from neobert.errors import ConfigError
from neobert.files import read_json, reading

DEEPSPEED = "deepspeed_zero"

SET_ELSEWHERE = {
    "optimizer": "optimizer.*",
    "scheduler": "scheduler.*",
    "gradient_accumulation_steps": "trainer.gradient_accumulation_steps",
    "gradient_clipping": "trainer.gradient_clipping",
    "train_batch_size": "trainer.per_device_train_batch_size",
    "bf16": "trainer.mixed_precision",
    "fp16": "trainer.mixed_precision",
}
"""Keys of a DeepSpeed JSON that settings of this project decide."""


def zero_stage(name: str) -> int:
    """The stage in ``deepspeed_zero<stage>``."""
    return int(name.removeprefix(DEEPSPEED))


def strategy_problems(config: Config, name: str, processes: int, on_cuda: bool) -> list[str]:
    """Why the strategy ``name`` cannot run; empty if it can."""
    is_fp16 = config.trainer.mixed_precision == "fp16"
    problems = require(
        on_cuda or not is_fp16,
        "trainer.mixed_precision=fp16 needs a GPU: use bf16, or no (fp32), on a CPU",
    )
    problems += require(
        name != "fsdp2" or not is_fp16,
        "trainer.mixed_precision=fp16 with trainer.strategy=fsdp2: the gradient scaler does not "
        "see the other ranks' overflows; use bf16, or trainer.strategy=ddp",
    )
    problems += require(
        name != "single" or processes == 1,
        f"trainer.strategy=single runs one process, but {processes} are requested: set "
        "trainer.devices=1 or trainer.strategy=ddp",
    )
    if name.startswith(DEEPSPEED):
        problems += _deepspeed_problems(config, zero_stage(name))
    return problems


def why_no_deepspeed() -> str | None:
    """Why DeepSpeed cannot run at all on this machine; ``None`` if it can."""
    if importlib.util.find_spec("deepspeed") is None:
        return "the package is not installed (pip install 'neobert[deepspeed]')"
    return None


def _deepspeed_problems(config: Config, stage: int) -> list[str]:
    """DeepSpeed at all, and what ZeRO's flat pieces make impossible."""
    reason = why_no_deepspeed()
    problems = require(
        reason is None,
        f"trainer.strategy=deepspeed_zero{stage} cannot run: {reason}; trainer.strategy=ddp and "
        "fsdp2 need no package",
    )
    problems += require(
        not config.model.ngpt,
        "model.ngpt=true with DeepSpeed: its weights are normalised after every step, and ZeRO "
        "keeps the weights that count in pieces; use trainer.strategy=ddp or fsdp2",
    )
    muon = config.optimizer.muon_config
    problems += require(
        muon is None or not muon.detect_anomalies,
        "optimizer.muon_config.detect_anomalies=true with DeepSpeed: ZeRO updates one group of "
        "parameters after the other, so a step cannot be skipped as a whole; use "
        "trainer.strategy=ddp or fsdp2, or set it to false",
    )
    problems += require(
        stage == 3 or not config.deepspeed.offload_parameters,
        f"deepspeed.offload_parameters=true needs stage 3, and this is {stage}: use "
        "trainer.strategy=deepspeed_zero3, or deepspeed.offload_optimizer",
    )
    problems += require(
        stage > 0 or not config.deepspeed.offload_optimizer,
        "deepspeed.offload_optimizer=true needs stage 1 or more: use "
        "trainer.strategy=deepspeed_zero2",
    )
    file = config.deepspeed.config_file
    return problems if file is None else problems + _own_file_problems(file, stage)


def _own_file_problems(file: str, stage: int) -> list[str]:
    """``deepspeed.config_file``: readable, of this stage, and silent about what is set here."""
    with reading(file, "deepspeed.config_file"):
        values = read_json(Path(file))
    if not isinstance(values, dict):
        raise ConfigError(f"deepspeed.config_file={file}: must hold an object")
    zero = values.get("zero_optimization")
    file_stage = zero.get("stage", 0) if isinstance(zero, dict) else 0
    if file_stage not in (0, 1, 2, 3) or isinstance(file_stage, bool | float):
        return [
            f"deepspeed.config_file={file}: zero_optimization.stage={file_stage!r}: must be 0, 1, "
            "2 or 3"
        ]
    problems = require(
        file_stage == stage,
        f"deepspeed.config_file={file} is for stage {file_stage}: use "
        f"trainer.strategy=deepspeed_zero{file_stage}",
    )
    for key, place in SET_ELSEWHERE.items():
        problems += require(
            key not in values, f"deepspeed.config_file={file}: {key} is decided by {place}; remove"
        )
    return problems
