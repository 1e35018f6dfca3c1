"""An Accelerate YAML becomes settings; what has no counterpart is named."""

import logging
from pathlib import Path

import pytest
import yaml

from neobert.config.root import Config
from neobert.config.trainer import TrainerConfig
from neobert.errors import ConfigError
from neobert.training.accelerate_file import with_accelerate_file

DEEPSPEED = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "DEEPSPEED",
    "deepspeed_config": {
        "zero_stage": 3,
        "offload_optimizer_device": "cpu",
        "offload_param_device": "none",
        "gradient_clipping": 0.7,
        "gradient_accumulation_steps": 4,
        "zero3_init_flag": True,
    },
    "mixed_precision": "bf16",
    "num_machines": 2,
    "num_processes": 16,
    "use_cpu": False,
}


def config_with(tmp_path: Path, values: object, trainer: TrainerConfig | None = None) -> Config:
    file = tmp_path / "accelerate.yaml"
    file.write_text(yaml.safe_dump(values))
    return Config(accelerate_config_file=str(file), trainer=trainer or TrainerConfig())


@pytest.mark.proves("accelerate_config_file")
def test_processes_precision_and_deepspeed_are_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "neobert"):
        found = with_accelerate_file(config_with(tmp_path, DEEPSPEED))
    settings = found.trainer
    assert (settings.devices, settings.num_nodes) == (8, 2)
    assert (settings.strategy, settings.mixed_precision) == ("deepspeed_zero3", "bf16")
    assert (settings.gradient_clipping, settings.gradient_accumulation_steps) == (0.7, 4)
    assert found.deepspeed.offload_optimizer
    assert not found.deepspeed.offload_parameters
    assert "compute_environment, deepspeed_config.zero3_init_flag" in caplog.text


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [("NO", "single"), ("MULTI_GPU", "ddp"), ("MULTI_CPU", "ddp"), ("FSDP", "fsdp2")],
)
def test_kinds(tmp_path: Path, kind: str, strategy: str) -> None:
    found = with_accelerate_file(
        config_with(tmp_path, {"distributed_type": kind, "num_processes": 1, "use_cpu": True})
    )
    assert found.trainer.strategy == strategy
    assert found.trainer.use_cpu


def test_translating_what_a_run_has_saved_changes_nothing(tmp_path: Path) -> None:
    once = with_accelerate_file(config_with(tmp_path, DEEPSPEED))
    assert with_accelerate_file(once) == once


@pytest.mark.parametrize(
    ("values", "trainer", "words"),
    [
        ({"distributed_type": "TPU"}, None, "distributed_type=TPU: must be one of"),
        ({"num_processes": 3, "num_machines": 2}, None, "3 processes on 2 machines"),
        ({"mixed_precision": "fp8"}, None, "trainer.mixed_precision=fp8"),
        ({"num_processes": 4}, TrainerConfig(devices=2), r"trainer.devices=4, this run"),
        (["no mapping"], None, "must hold keys"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, values: object, trainer: TrainerConfig | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        with_accelerate_file(config_with(tmp_path, values, trainer))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"accelerate_config_file=/no\.yaml: cannot be read"):
        with_accelerate_file(Config(accelerate_config_file="/no.yaml"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("num_processes: two\n", "num_processes=two: must be an integer of at least 1"),
        ("num_machines: 0\n", "num_machines=0: must be an integer of at least 1"),
        ("num_processes: null\n", "num_processes=None"),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: [1]\n", "must hold keys and values"),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config: {gradient_clipping: abc}\n",
            "gradient_clipping=abc: must be a number",
        ),
        ("- 1\n", "must hold keys and values"),
        ("a: " + "[" * 3000, "cannot be read"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_damaged_file_is_one_clear_error(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as error:
        with_accelerate_file(Config(accelerate_config_file=str(file)))
    (line,) = error.value.problems
    assert problem in line
    assert str(file) in line


def test_entries_whose_name_is_no_text_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_accelerate_file(config_with(tmp_path, {1: 2, "other": 3}))
    assert "ignored: 1, other" in caplog.text
