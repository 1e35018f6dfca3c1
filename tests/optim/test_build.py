"""Settings reach the optimizer."""

import pytest
import torch
from torch import nn

from neobert.config.compose import compose_config
from neobert.config.optimizer import MuonConfig, OptimizerConfig
from neobert.errors import ConfigError
from neobert.optim.build import (
    build_optimizer,
    doubts_about,
)
from neobert.optim.muon import MuonClip


def named() -> list[tuple[str, nn.Parameter]]:
    shapes = {
        "model.encoder.weight": (9, 8),
        "model.transformer_encoder.0.qkv.weight": (24, 8),
        "model.transformer_encoder.0.wo.weight": (8, 8),
        "decoder.weight": (9, 8),
    }
    return [(name, nn.Parameter(torch.randn(shape))) for name, shape in shapes.items()]


@pytest.mark.proves("optimizer.lr", "optimizer.betas", "optimizer.eps", "optimizer.weight_decay")
@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_adam_and_adamw_are_torchs_with_these_settings(name: str) -> None:
    config = OptimizerConfig(name=name, lr=3e-3, betas=[0.8, 0.7], eps=0.1, weight_decay=0.4)
    ours = named()
    theirs = [(key, nn.Parameter(parameter.detach().clone())) for key, parameter in ours]
    embedding = "model.encoder.weight"
    decayed = [p for key, p in theirs if name == "adam" or key != embedding]
    undecayed = [p for key, p in theirs if name == "adamw" and key == embedding]
    groups = [{"params": decayed, "weight_decay": 0.4}, {"params": undecayed, "weight_decay": 0.0}]
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    oracle = kind([g for g in groups if g["params"]], 3e-3, (0.8, 0.7), 0.1)
    optimizer = build_optimizer(config, ours, num_heads=2)
    for _ in range(4):
        for (_, mine), (_, other) in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        optimizer.step()
        oracle.step()
    for (_, mine), (_, other) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)  # fused against one by one


@pytest.mark.proves("optimizer.name", "optimizer.muon_config")
def test_muonclip_gets_its_groups_and_settings() -> None:
    muon = MuonConfig(muon_beta=0.9, muon_decay=0.2, ns_steps=7, norm_factor="spectral")
    config = OptimizerConfig(name="muonclip", lr=2e-3, weight_decay=0.1, muon_config=muon)
    optimizer = build_optimizer(config, named(), num_heads=2)
    assert isinstance(optimizer, MuonClip)
    assert optimizer.settings.muon_beta == 0.9
    assert optimizer.settings.ns_steps == 7
    assert optimizer.settings.norm_factor == "spectral"
    found = [
        (g["param_names"], g["muon"], g.get("heads"), g["weight_decay"], g["lr"])
        for g in optimizer.param_groups
    ]
    assert found == [
        (["model.transformer_encoder.0.wo.weight"], True, 0, 0.2, 2e-3),
        (["model.transformer_encoder.0.qkv.weight"], True, 2, 0.2, 2e-3),
        (["decoder.weight"], False, None, 0.1, 2e-3),
        (["model.encoder.weight"], False, None, 0.0, 2e-3),
    ]


def matrices_after_two_steps(*words: str) -> list[torch.Tensor]:
    """What MuonClip makes of the same weights and gradients."""
    torch.manual_seed(0)
    config, parameters = compose_config(["optimizer=muonclip", *words]), named()
    optimizer = build_optimizer(config.optimizer, parameters, num_heads=2)
    for _ in range(2):
        for _, parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return [parameter.detach() for name, parameter in parameters if "encoder.0" in name]


@pytest.mark.proves(
    "optimizer.muon_config.muon_beta",
    "optimizer.muon_config.ns_steps",
    "optimizer.muon_config.nesterov",
    "optimizer.muon_config.norm_factor",
    "optimizer.muon_config.orthogonalization",
)
@pytest.mark.parametrize(
    "word",
    [
        "muon_beta=0.5",
        "ns_steps=3",
        "nesterov=false",
        "norm_factor=spectral",
        "orthogonalization=newton_schulz",
    ],
)
def test_a_setting_of_muon_changes_the_step(word: str) -> None:
    usual = matrices_after_two_steps()
    changed = matrices_after_two_steps(f"optimizer.muon_config.{word}")
    for before, after in zip(usual, changed, strict=True):
        assert not torch.equal(before, after)


def test_without_muon_config_the_defaults_hold() -> None:
    optimizer = build_optimizer(OptimizerConfig(name="muonclip"), named(), num_heads=2)
    assert isinstance(optimizer, MuonClip)
    assert optimizer.settings == MuonConfig()


@pytest.mark.proves("optimizer.muon_config.algorithm", "optimizer.muon_config.polar_express")
@pytest.mark.parametrize(
    ("word", "method"),
    [
        ("orthogonalization=newton-schulz", "newton_schulz"),
        ("orthogonalization=NS5", "newton_schulz"),
        ("orthogonalization=polar", "polar_express"),
        ("orthogonalization=Polar-Express", "polar_express"),
        ("algorithm=newton_schulz_5", "newton_schulz"),
        ("algorithm=Newton-Schulz5", "newton_schulz"),
        ("polar_express=false", "newton_schulz"),
        ("polar_express=true", "polar_express"),
    ],
)
def test_spellings_of_the_orthogonalisation(word: str, method: str) -> None:
    config = compose_config(["optimizer=muonclip", f"optimizer.muon_config.{word}"])
    optimizer = build_optimizer(config.optimizer, named(), num_heads=2)
    assert isinstance(optimizer, MuonClip)
    assert optimizer.settings.orthogonalization == method


def test_switches_of_the_orthogonalisation_that_differ_are_one_error() -> None:
    words = ["algorithm=newton_schulz", "polar_express=true"]
    with pytest.raises(ConfigError, match="are both set, to different values"):
        compose_config(["optimizer=muonclip", *(f"optimizer.muon_config.{word}" for word in words)])


@pytest.mark.parametrize(
    ("muon", "doubts"),
    [
        (MuonConfig(), []),
        (MuonConfig(ns_steps=2), ["ns_steps=2"]),
        (MuonConfig(ns_steps=3, clipping_threshold=30), []),
        (MuonConfig(clipping_threshold=29), ["clipping_threshold=29"]),
        (MuonConfig(clipping_threshold=201, ns_steps=1), ["ns_steps=1", "clipping_threshold=201"]),
        (MuonConfig(clipping_threshold=5, enable_clipping=False), []),
    ],
)
def test_settings_that_are_hardly_ever_meant_are_told(
    muon: MuonConfig, doubts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert [doubt.partition(":")[0] for doubt in doubts_about(muon)] == doubts
    build_optimizer(OptimizerConfig(name="muonclip", muon_config=muon), named(), num_heads=2)
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"optimizer.muon_config.{doubt}" for doubt in doubts_about(muon)]
