"""NeoBERT's weights as ``eurobert`` and back, against the classes of transformers themselves."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from neobert.config.model import ModelConfig
from neobert.model.encoder import Encoder
from neobert.model.eurobert import (
    eurobert_config,
    eurobert_weights,
    neobert_config,
    neobert_weights,
    reasons_unsupported,
)
from neobert.model.formats import model_config, published_names
from neobert.model.heads import MaskedLM
from neobert.ops.rotary import rotary_table

eurobert = pytest.importorskip(
    "transformers.models.eurobert.modeling_eurobert", reason="needs transformers 5.3"
)
SHAPE = {
    "vocab_size": 60,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
THETA = 500.0


def make_eurobert(cls: type, **changes: object):
    """A random model of transformers, its weights wide enough for differences to show."""
    rope = {"rope_type": "default", "rope_theta": THETA}
    config = eurobert.EuroBertConfig(
        **{**SHAPE, "rope_parameters": rope, "initializer_range": 0.1, **changes}
    )
    torch.manual_seed(0)
    model = cls(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 20  # norms and padding rows too
    return model


class Angles(nn.Module):
    """Our table of angles in transformers' layout: fp32 frequencies differ in their last bit."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:
        table = rotary_table(position_ids[0], SHAPE["hidden_size"] // 4, THETA)
        return tuple(torch.cat((part, part), -1)[None].to(x.dtype) for part in table)


def in_double(model: nn.Module) -> nn.Module:
    """fp64 throughout: transformers computes norms in fp32 whatever the weights are."""
    model = model.double()
    model.model.rotary_emb = Angles()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, eurobert.EuroBertRMSNorm):
                norm = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon).double()
                norm.weight = child.weight
                setattr(module, name, norm)
    return model


def padded_batch() -> tuple[Tensor, Tensor]:
    """Texts of 40, 1 and 17 tokens, their padding on the right."""
    lengths = torch.tensor([40, 1, 17])
    mask = (torch.arange(40) < lengths[:, None]).long()
    ids = torch.randint(2, SHAPE["vocab_size"], mask.shape, generator=torch.Generator())
    return ids.masked_fill(mask == 0, SHAPE["pad_token_id"]), mask


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}


@pytest.mark.parametrize(
    ("tied", "dtype", "tolerance", "scaling"),
    [
        (True, torch.float32, 1e-5, {}),
        (False, torch.float32, 1e-5, {}),
        (True, torch.float64, 1e-10, {}),
        (False, torch.float64, 1e-10, {}),
        (True, torch.float32, 1e-5, YARN),
    ],
)
def test_a_eurobert_of_transformers_gives_its_logits_here(
    tied: bool, dtype: torch.dtype, tolerance: float, scaling: dict, tmp_path: Path
) -> None:
    rope = {"rope_type": "default", "rope_theta": THETA, **scaling}
    original = make_eurobert(
        eurobert.EuroBertForMaskedLM, tie_word_embeddings=tied, rope_parameters=rope
    )
    original.save_pretrained(tmp_path)
    values = neobert_config(json.loads((tmp_path / "config.json").read_text()))
    stored = load_file(tmp_path / "model.safetensors")
    weights = published_names(neobert_weights(stored, SHAPE["num_attention_heads"]))
    model = MaskedLM(model_config(values), 60, 1).eval().to(dtype)
    if tied:
        weights.setdefault("decoder.weight", weights["model.encoder.weight"])
    model.load_state_dict(weights, strict=True)
    if dtype == torch.float64:
        original = in_double(original)
    ids, mask = padded_batch()
    with torch.no_grad():
        expected = original(input_ids=ids, attention_mask=mask).logits
        logits = model(ids, mask).logits
    kept = mask.bool()
    assert expected[kept].abs().max() > 2
    assert_close(logits[kept], expected[kept], atol=tolerance, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_the_conversion_and_its_inverse_change_nothing(tied: bool) -> None:
    config = ModelConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        rope_theta=THETA, tie_word_embeddings=tied, max_position_embeddings=77,
    )  # fmt: skip
    weights = MaskedLM(config, 60, 1).state_dict()
    there = eurobert_weights(weights, 4)
    back = neobert_weights(there, 4)
    assert there.keys() != weights.keys() == back.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    bare = Encoder(config, 60, 1).state_dict()
    assert neobert_weights(eurobert_weights(bare, 4), 4).keys() == bare.keys()
    values = {**eurobert_config(config), "vocab_size": 60, "pad_token_id": 1}
    values["tie_word_embeddings"] = tied
    same = model_config(neobert_config(values))
    for name in (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "rope_theta", "norm_eps", "tie_word_embeddings", "max_position_embeddings",
    ):  # fmt: skip
        assert getattr(same, name) == getattr(config, name), name


def test_the_hub_s_older_settings_are_read() -> None:
    values = {"rope_theta": 250000, "rope_scaling": None, "hidden_size": 768, "head_dim": 64}
    config = model_config(neobert_config(values))
    assert (config.rope_theta, config.max_position_embeddings) == (250000, 8192)
    assert config.intermediate_size == 4608
    scaled = {**values, "rope_scaling": {"type": "linear", "factor": 4.0}}
    scaling = model_config(neobert_config(scaled)).rope_scaling
    assert scaling == {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_key_value_heads": 2}, "grouped-query attention"),
        ({"head_dim": 32}, "head_dim is 32"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4}}, "rope_type=yarn needs it"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4}}, "rope_type=dynamic"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_type=longrope"),
        ({"intermediate_size": 100}, "not a multiple of 8"),
        ({"hidden_size": "big"}, "hidden_size is 'big'"),
    ],
)
def test_what_neobert_cannot_represent_is_refused_with_its_reason(changes, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        neobert_config({**SHAPE, **changes})


def test_a_layer_that_lacks_a_projection_is_refused() -> None:
    weights = make_eurobert(eurobert.EuroBertForMaskedLM).state_dict()
    del weights["model.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(ValueError, match=r"transformer_encoder.1. lacks k_proj"):
        neobert_weights(weights, 4)
    with pytest.raises(ValueError, match=r"unexpected weight model.layers.0.self_attn.q_norm"):
        neobert_weights({"model.layers.0.self_attn.q_norm.weight": torch.ones(2)}, 4)


def test_other_architectures_have_no_equivalent() -> None:
    assert reasons_unsupported(ModelConfig()) == []
    other = ModelConfig(rope=False, rms_norm=False, hidden_act="gelu")
    assert reasons_unsupported(other) == ["learned positions", "LayerNorm", "GELU"]
    assert reasons_unsupported(ModelConfig(ngpt=True)) == ["nGPT"]
