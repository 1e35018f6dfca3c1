"""Which strategy is chosen, and what is refused with which reason."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.config.deepspeed import DeepSpeedConfig
from neobert.config.group_files import options
from neobert.config.model import ModelConfig
from neobert.config.optimizer import MuonConfig, OptimizerConfig
from neobert.config.root import Config
from neobert.config.stages import StageConfig
from neobert.config.trainer import TrainerConfig
from neobert.errors import ConfigError
from neobert.training import strategy_checks
from neobert.training.strategy import build_strategy, resolve_strategy, with_shared_batch
from neobert.training.strategy_deepspeed import ZeRO

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the extra deepspeed is not installed"
)


@pytest.mark.proves("use_deepspeed", "trainer.num_nodes")
@pytest.mark.parametrize(
    ("devices", "nodes", "use_deepspeed", "on_cuda", "installed", "expected", "words"),
    [
        (1, 1, True, False, True, "single", "one process; use_deepspeed has no effect"),
        (2, 1, True, False, True, "ddp", "DDP; use_deepspeed has no effect, since there is no GPU"),
        (1, 1, True, True, True, "single", "since there is one device"),
        (4, 1, True, True, False, "ddp", "the package is not installed"),
        (4, 1, True, True, True, "deepspeed_zero2", None),
        (1, 2, True, True, True, "deepspeed_zero2", None),
        (4, 1, False, True, True, "ddp", None),
        (1, 1, False, False, True, "single", None),
    ],
)
def test_auto_takes_deepspeed_where_it_can_run_and_says_why_where_not(  # noqa: PLR0917
    monkeypatch, devices, nodes, use_deepspeed, on_cuda, installed, expected, words
) -> None:
    found = object() if installed else None
    monkeypatch.setattr(strategy_checks.importlib.util, "find_spec", lambda name: found)
    config = Config(
        use_deepspeed=use_deepspeed, trainer=TrainerConfig(devices=devices, num_nodes=nodes)
    )
    choice = resolve_strategy(config, on_cuda)
    assert choice.name == expected
    assert choice.processes == devices * nodes
    assert (choice.reason is None) == (words is None)
    assert words is None or words in str(choice.reason)


def test_torchrun_has_decided_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "3")
    assert resolve_strategy(Config(use_deepspeed=False), on_cuda=False).devices == 3


MUON = OptimizerConfig(name="muonclip", muon_config=MuonConfig(detect_anomalies=True))
OFFLOAD = DeepSpeedConfig(offload_parameters=True)
REFUSED = {
    "fp16 on a CPU": (Config(trainer=TrainerConfig(mixed_precision="fp16")), "needs a GPU"),
    "fp16 under FSDP2": (
        Config(trainer=TrainerConfig(mixed_precision="fp16", strategy="fsdp2", devices=2)),
        "trainer.strategy=ddp",
    ),
    "nGPT": (
        Config(trainer=TrainerConfig(strategy="deepspeed_zero1"), model=ModelConfig(ngpt=True)),
        "use trainer.strategy=ddp or fsdp2",
    ),
    "detect_anomalies": (
        Config(trainer=TrainerConfig(strategy="deepspeed_zero2"), optimizer=MUON),
        "a step cannot be skipped as a whole",
    ),
    "offload below stage 3": (
        Config(trainer=TrainerConfig(strategy="deepspeed_zero2"), deepspeed=OFFLOAD),
        "needs stage 3",
    ),
}


@pytest.mark.parametrize(("config", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_made_right_is_refused(config: Config, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_strategy(config, on_cuda=False)


def test_an_explicit_deepspeed_without_the_package_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strategy_checks.importlib.util, "find_spec", lambda name: None)
    config = Config(trainer=TrainerConfig(strategy="deepspeed_zero2", devices=2))
    with pytest.raises(ConfigError, match=r"pip install 'neobert\[deepspeed\]'"):
        resolve_strategy(config, on_cuda=True)


@needs_deepspeed
def test_an_own_deepspeed_file_is_used_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    zero = {"stage": 1, "allgather_bucket_size": 12345}

    def config(values: dict[str, object], stage: int) -> Config:
        file.write_text(json.dumps(values))
        return Config(
            trainer=TrainerConfig(strategy=f"deepspeed_zero{stage}"),
            deepspeed=DeepSpeedConfig(config_file=str(file)),
        )

    right = config({"zero_optimization": zero}, 1)
    strategy = build_strategy(right, resolve_strategy(right, on_cuda=False))
    assert isinstance(strategy, ZeRO)
    assert strategy.config["zero_optimization"] == zero
    for values, stage, words in (
        ({"zero_optimization": zero}, 2, "is for stage 1"),
        ({"zero_optimization": zero, "fp16": {}}, 1, "decided by trainer.mixed_precision"),
    ):
        with pytest.raises(ConfigError, match=words):
            resolve_strategy(config(values, stage), on_cuda=False)


def test_the_profiles_of_the_strategy_group_compose() -> None:
    profiles = options("strategy")
    assert {"ddp", "fsdp2", "zero2", "zero3_offload", "two_cpu_processes"} <= {*profiles}
    for profile in profiles:
        assert compose_config([f"strategy={profile}"]).trainer.strategy != "auto"
    assert compose_config(["strategy=zero3_offload"]).deepspeed.offload_parameters


@pytest.mark.parametrize(("processes", "share"), [("1", 12), ("2", 6), ("3", 4), ("4", 3)])
def test_the_global_batch_is_shared_by_as_many_processes_as_there_are(
    monkeypatch: pytest.MonkeyPatch, processes: str, share: int
) -> None:
    monkeypatch.setitem(os.environ, "WORLD_SIZE", processes)
    config = Config(trainer=TrainerConfig(global_batch_size=24, gradient_accumulation_steps=2))
    assert with_shared_batch(config).trainer.per_device_train_batch_size == share


def test_a_global_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "5")
    config = Config(trainer=TrainerConfig(global_batch_size=12))
    with pytest.raises(ConfigError, match="must be a multiple of 5"):
        with_shared_batch(config)
    config.stages = [StageConfig(per_device_train_batch_size=4)]
    with pytest.raises(ConfigError, match="a stage sets per_device_train_batch_size"):
        with_shared_batch(config)


def test_torchrun_has_decided_how_many_machines_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "2")
    monkeypatch.setitem(os.environ, "GROUP_WORLD_SIZE", "3")
    choice = resolve_strategy(Config(use_deepspeed=False), on_cuda=False)
    assert (choice.devices, choice.num_nodes) == (2, 3)
