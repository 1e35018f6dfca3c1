"""``accelerate_config_file``: an Accelerate YAML in this project's settings.

Taken over are processes, machines, precision, CPU and the strategy; what has no counterpart is
named in one line. A setting of the run's own configuration that differs is an error, not a guess.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from neobert.config.root import Config
from neobert.config.yaml_file import read_settings
from neobert.console import get_logger
from neobert.errors import ConfigError

log = get_logger(__name__)

KINDS = {
    "NO": "single",
    "MULTI_GPU": "ddp",
    "MULTI_CPU": "ddp",
    "FSDP": "fsdp2",
    "DEEPSPEED": "deepspeed",
}
"""``distributed_type`` and the strategy it means; DeepSpeed's stage is another key."""

LAUNCHING = (
    "compute_environment",
    "debug",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
    "main_training_function",
    "rdzv_backend",
    "same_network",
    "enable_cpu_affinity",
    "gpu_ids",
    "fsdp_config",
    "downcast_bf16",
    "tpu_env",
    "tpu_use_cluster",
    "tpu_use_sudo",
)
"""About starting processes, which torchrun or Lightning does here, or about the first FSDP."""

DEEPSPEED_KEYS = (
    "zero_stage",
    "deepspeed_config_file",
    "offload_optimizer_device",
    "offload_param_device",
    "gradient_clipping",
    "gradient_accumulation_steps",
)


def with_accelerate_file(config: Config) -> Config:
    """``config`` with what its ``accelerate_config_file`` says; itself if it names none."""
    if config.accelerate_config_file is None:
        return config
    path = config.accelerate_config_file
    settings, ignored = translate_accelerate(
        read_settings(Path(path), "accelerate_config_file"), path
    )
    merged = merge_accelerate(config, settings, path)
    if ignored:
        log.warning("%s: no counterpart here, ignored: %s", path, ", ".join(sorted(ignored)))
    if problems := merged.problems():
        raise ConfigError(*[f"{path}: {problem}" for problem in problems])
    return merged


def translate_accelerate(
    values: Mapping[str, object], path: str
) -> tuple[dict[str, object], set[str]]:
    """Settings by dotted key, and the entries that have no counterpart."""
    kind = str(values.get("distributed_type", "NO")).upper()
    if kind not in KINDS:
        raise ConfigError(f"{path}: distributed_type={kind}: must be one of {', '.join(KINDS)}")
    machines, processes = (_count(values, key, path) for key in ("num_machines", "num_processes"))
    if processes % machines:
        raise ConfigError(f"{path}: {processes} processes on {machines} machines: not the same")
    settings: dict[str, object] = {
        "trainer.devices": processes // machines,
        "trainer.num_nodes": machines,
    }
    ignored = {key for key in LAUNCHING if values.get(key) not in (None, {}, False)}
    if "mixed_precision" in values:
        settings["trainer.mixed_precision"] = str(values["mixed_precision"]).lower()
    if values.get("use_cpu"):
        settings["trainer.use_cpu"] = True
    if kind == "DEEPSPEED":
        settings |= _deepspeed(values.get("deepspeed_config"), ignored, path)
    else:
        settings["trainer.strategy"] = KINDS[kind]
    known = {"distributed_type", "num_machines", "num_processes", "mixed_precision", "use_cpu"}
    others = {str(key) for key in values} - known - {*LAUNCHING, "deepspeed_config"}
    return settings, ignored | others


def _count(values: Mapping[str, object], key: str, path: str) -> int:
    text = str(values.get(key, 1))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{path}: {key}={text}: must be an integer of at least 1")
    return int(text)


def merge_accelerate(config: Config, settings: Mapping[str, object], path: str) -> Config:
    """Put ``settings`` in; one that has another value than its default stays and must agree."""
    usual, problems = Config(), []
    sections = {"trainer": config.trainer, "deepspeed": config.deepspeed}
    changes: dict[str, dict[str, object]] = {name: {} for name in sections}
    for dotted, value in settings.items():
        section, _, key = dotted.partition(".")
        current = getattr(sections[section], key)
        default = getattr(getattr(usual, section), key)
        if current not in (default, value):
            problems.append(f"{path} says {dotted}={value}, this run {dotted}={current}: keep one")
        changes[section][key] = value
    if problems:
        raise ConfigError(*problems)
    return replace(
        config,
        trainer=replace(config.trainer, **changes["trainer"]),  # type: ignore[arg-type]
        deepspeed=replace(config.deepspeed, **changes["deepspeed"]),  # type: ignore[arg-type]
    )


def _deepspeed(values: object, ignored: set[str], path: str) -> dict[str, object]:
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path}: deepspeed_config={values}: must hold keys and values")
    settings = values or {}
    ignored |= {f"deepspeed_config.{key}" for key in settings if key not in DEEPSPEED_KEYS}
    translated: dict[str, object] = {
        "trainer.strategy": f"deepspeed_zero{settings.get('zero_stage', 2)}"
    }
    if settings.get("deepspeed_config_file"):
        translated["deepspeed.config_file"] = str(settings["deepspeed_config_file"])
    for key, name in (
        ("offload_optimizer_device", "offload_optimizer"),
        ("offload_param_device", "offload_parameters"),
    ):
        if settings.get(key) == "cpu":
            translated[f"deepspeed.{name}"] = True
    for key, kind in (("gradient_clipping", float), ("gradient_accumulation_steps", int)):
        value = settings.get(key)
        if value in (None, "auto"):
            continue
        try:
            translated[f"trainer.{key}"] = kind(str(value))
        except ValueError:
            raise ConfigError(f"{path}: deepspeed_config.{key}={value}: must be a number") from None
    return translated
