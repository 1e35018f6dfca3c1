"""What cannot run together with a strategy: each with the reason, and what to do instead."""

import importlib.util
from pathlib import Path

from neobert.config.checks import require
from neobert.config.root import Config
from neobert.config.trainer import TrainerConfig
from neobert.errors import ConfigError
from neobert.files import read_json, reading

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


def single_problems(processes: int) -> list[str]:
    """``trainer.strategy=single``."""
    return require(
        processes == 1,
        f"trainer.strategy=single runs one process, but {processes} are requested: set "
        "trainer.devices=1 or trainer.strategy=ddp",
    )


def precision_problems(settings: TrainerConfig, name: str, on_cuda: bool) -> list[str]:
    """``trainer.mixed_precision=fp16``."""
    if settings.mixed_precision != "fp16":
        return []
    problems = require(
        on_cuda, "trainer.mixed_precision=fp16 needs a GPU: use bf16, or no (fp32), on a CPU"
    )
    return problems + require(
        name != "fsdp2",
        "trainer.mixed_precision=fp16 with trainer.strategy=fsdp2: the gradient scaler does not "
        "see the other ranks' overflows; use bf16, or trainer.strategy=ddp",
    )


def deepspeed_problems(config: Config, stage: int) -> list[str]:
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
    return problems + own_file_problems(config.deepspeed.config_file, stage)


def own_file_problems(file: str | None, stage: int) -> list[str]:
    """``deepspeed.config_file``: readable, of this stage, and silent about what is set here."""
    if file is None:
        return []
    values = read_deepspeed_file(file)
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


def read_deepspeed_file(file: str) -> dict[str, object]:
    """An own DeepSpeed JSON."""
    with reading(file, "deepspeed.config_file"):
        values = read_json(Path(file))
    if not isinstance(values, dict):
        raise ConfigError(f"deepspeed.config_file={file}: must hold an object")
    return values


def why_no_deepspeed() -> str | None:
    """Why DeepSpeed cannot run at all on this machine; ``None`` if it can."""
    if importlib.util.find_spec("deepspeed") is None:
        return "the package is not installed (pip install 'neobert[deepspeed]')"
    return None
