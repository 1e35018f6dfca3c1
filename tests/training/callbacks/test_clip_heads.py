"""QK-clip in training: what is measured when, and that a clipped head is at the threshold."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from neobert.batch import PackedBatch
from neobert.config.compose import compose_config
from neobert.config.model import ModelConfig
from neobert.config.optimizer import MuonConfig, OptimizerConfig
from neobert.config.root import Config
from neobert.model.heads import MaskedLM
from neobert.training.callbacks.attention_logits import attention_layers
from neobert.training.callbacks.clip_heads import QKClip
from neobert.training.trainer import quiet_libraries, weight_callbacks

CONFIG = ModelConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
)


def batch_of(number: int) -> PackedBatch:
    draw = torch.Generator().manual_seed(number)
    ids = torch.randint(2, 11, (9,), generator=draw).tolist()
    return PackedBatch.from_documents([ids[:4], ids[4:]])


class Module(LightningModule):
    """Learns nothing (the rate is 0), so that only clipping changes weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = MaskedLM(CONFIG, 11, 0)
        for layer in self.model.model.attention_layers():
            nn.init.normal_(layer.qkv.weight, std=2.0)  # hot heads
        self.measured: list[list[bool]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        layers = self.model.model.attention_layers()
        self.measured.append([layer.record_max_logits for layer in layers])
        return self.model.hidden(batch_of(int(batch))).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def largest(module: Module, batches: list[int]) -> Tensor:
    """(layers, heads): the largest logits over some batches."""
    layers = module.model.model.attention_layers()
    for layer in layers:
        layer.reset_max_logits()
        layer.record_max_logits = True
    for number in batches:
        module.model.hidden(batch_of(number))
    for layer in layers:
        layer.record_max_logits = False
    return torch.stack([layer.max_logits for layer in layers])


def fit(module: Module, config: MuonConfig, tmp_path: Path, accumulation: int, steps: int) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=accumulation,
        callbacks=[QKClip(config, log_every=100)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(range(steps * accumulation), batch_size=None))


@pytest.fixture(autouse=True)
def _no_tips() -> None:
    quiet_libraries()


@pytest.mark.proves(
    "optimizer.muon_config.capture_last_microbatch_only", "optimizer.muon_config.enable_clipping"
)
@pytest.mark.parametrize(("last_only", "seen"), [(True, [2]), (False, [0, 1, 2])])
def test_after_a_clip_the_maximum_of_the_same_batches_is_at_the_threshold(
    tmp_path: Path, last_only: bool, seen: list[int]
) -> None:
    module = Module()
    # In the first layer: what enters the second depends on how the first was clipped.
    before = largest(module, seen)[0]
    threshold = float(before.mean())
    config = MuonConfig(
        clipping_threshold=threshold, clipping_interval=1, capture_last_microbatch_only=last_only
    )
    fit(module, config, tmp_path, accumulation=3, steps=1)
    assert (before > threshold).any()
    assert_close(largest(module, seen)[0], before.clamp(max=threshold), rtol=1e-4, atol=0)
    assert [all(here) for here in module.measured] == [not last_only, not last_only, True]


@pytest.mark.proves(
    "optimizer.muon_config.clipping_warmup_steps", "optimizer.muon_config.clipping_interval"
)
def test_only_steps_that_clip_measure(tmp_path: Path) -> None:
    module = Module()
    config = MuonConfig(clipping_warmup_steps=2, clipping_interval=3)
    fit(module, config, tmp_path, accumulation=1, steps=9)
    acting = [number for number, here in enumerate(module.measured) if any(here)]
    assert acting == [2, 5, 8]


@pytest.mark.proves("optimizer.muon_config.clipping_qk_chunk_size")
def test_the_chunk_size_bounds_memory_and_changes_no_maximum() -> None:
    module = Module()
    expected = largest(module, [0, 1])
    for layer in attention_layers(module, MuonConfig(clipping_qk_chunk_size=2)):
        assert layer.layer.qk_chunk_size == 2
    assert_close(largest(module, [0, 1]), expected)


class Separate(nn.Module):
    """An attention layer of another library, with names of its own."""

    num_heads = 2

    def __init__(self) -> None:
        super().__init__()
        self.query_layer, self.key_layer = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.query_layer(x) + self.key_layer(x)


class Other(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Separate()


@pytest.mark.proves("optimizer.muon_config.clipping_layers_mapping")
def test_separate_projections_are_found_by_the_names_that_are_given() -> None:
    module = Other()
    names = {"q_proj": "query_layer", "k_proj": "key_layer"}
    (layer,) = attention_layers(module, MuonConfig(clipping_layers_mapping=names))
    x = torch.randn(2, 5, 8)
    layer.record(True)
    module.attention(x)
    q, k = (
        f(x).unflatten(-1, (2, 4))
        for f in (module.attention.query_layer, module.attention.key_layer)
    )
    logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / 4**0.5
    assert_close(layer.maxima, logits.amax((0, 2, 3)))
    threshold = float(layer.maxima.min()) / 2
    assert layer.clip_(layer.maxima, threshold, 0.5) == 2
    layer.reset()
    module.attention(x)
    assert_close(layer.maxima, torch.full((2,), threshold))


def test_a_model_without_attention_says_what_to_set() -> None:
    with pytest.raises(ValueError, match="clipping_layers_mapping"):
        attention_layers(Other(), MuonConfig())


@pytest.mark.proves(
    "optimizer.muon_config.enable_clipping",
    "optimizer.muon_config.clipping_threshold",
    "optimizer.muon_config.clipping_alpha",
)
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_settings_of_a_run_clip_its_heads(tmp_path: Path, alpha: float) -> None:
    module = Module()
    before = largest(module, [0])[0]
    weight = module.model.model.attention_layers()[0].qkv.weight
    shape = (CONFIG.num_attention_heads, 3, -1, CONFIG.hidden_size)
    query, key, _ = weight.detach().clone().view(shape).unbind(1)
    threshold = float(before.mean())
    words = [f"clipping_threshold={threshold}", f"clipping_alpha={alpha}", "clipping_interval=1"]
    settings = compose_config(
        ["optimizer=muonclip", *(f"optimizer.muon_config.{word}" for word in words)]
    )
    (clip,) = weight_callbacks(settings)
    assert isinstance(clip, QKClip)
    fit(module, clip.config, tmp_path, accumulation=1, steps=1)
    assert (before > threshold).any()
    assert_close(largest(module, [0])[0], before.clamp(max=threshold), rtol=1e-4, atol=0)
    after_query, after_key, _ = weight.detach().view(shape).unbind(1)
    untouched, scaled = ((after_query, query), (after_key, key))[:: 1 if alpha == 0 else -1]
    assert_close(*untouched)
    assert not torch.allclose(*scaled)


@pytest.mark.proves("optimizer.muon_config.enable_clipping")
def test_it_is_there_where_it_is_asked_for() -> None:
    off_words = ["optimizer=muonclip", "optimizer.muon_config.enable_clipping=false"]
    assert weight_callbacks(compose_config(off_words)) == []
    muon, off = OptimizerConfig(name="muonclip"), MuonConfig(enable_clipping=False)
    assert len(weight_callbacks(Config(optimizer=muon))) == 1
    off_muon = OptimizerConfig(name="muonclip", muon_config=off)
    assert weight_callbacks(Config(optimizer=off_muon)) == []
    assert weight_callbacks(Config(optimizer=OptimizerConfig())) == []
