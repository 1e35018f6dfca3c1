"""Folders in the published layout, in each of its variants, load and give the published outputs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

import neobert

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = ("swiglu_rmsnorm_rope", "gelu_layernorm_learned")


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, object]]:
    """Weights, inputs and outputs, configuration."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    weights = {key[2:]: tensor for key, tensor in tensors.items() if key.startswith("w.")}
    values = {key: tensor for key, tensor in tensors.items() if not key.startswith("w.")}
    return weights, values, config


def write(folder: Path, weights: dict[str, Tensor], config: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: w.contiguous() for name, w in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "neobert", **config}))
    return folder


def assert_golden(folder: Path, values: dict[str, Tensor]) -> None:
    mask = values["in.attention_mask"].bool()
    with torch.no_grad():
        output = neobert.load(folder)(values["in.input_ids"], mask)
    # fp32 sums in another order; the largest logits are about 10.
    assert_close(output.logits[mask], values["out.logits"][mask], atol=1e-5, rtol=0)
    states = values["out.last_hidden_state"][mask]
    assert_close(output.last_hidden_state[mask], states, atol=1e-5, rtol=0)


@pytest.mark.proves("model.max_position_embeddings", "model.vocab_size", "model.pad_token_id")
@pytest.mark.parametrize("name", FILES)
def test_the_published_outputs_come_back(tmp_path, name) -> None:
    weights, values, config = golden(name)
    assert_golden(write(tmp_path, weights, config), values)


def test_packed_gates_are_taken_apart(tmp_path) -> None:
    weights, values, config = golden(FILES[0])
    for layer in range(3):
        ffn = f"model.transformer_encoder.{layer}.ffn."
        gates = [weights.pop(f"{ffn}{part}.weight") for part in ("w1", "w2")]
        weights[f"{ffn}w12.weight"] = torch.cat(gates)
    assert_golden(write(tmp_path, weights, config), values)


def test_a_bare_encoder_gets_its_embedding_as_decoder(tmp_path) -> None:
    weights, values, config = golden(FILES[0])
    del weights["decoder.weight"]
    bare = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    assert_golden(write(tmp_path, bare, config), values)


def test_a_decoder_below_the_encoder_is_found(tmp_path) -> None:
    weights, values, config = golden(FILES[1])
    weights["model.decoder.weight"] = weights.pop("decoder.weight")
    assert_golden(write(tmp_path, weights, config), values)


def test_a_decoder_bias_is_added_to_the_logits(tmp_path) -> None:
    weights, values, config = golden(FILES[1])
    weights["decoder.bias"] = torch.randn(96)
    values["out.logits"] = values["out.logits"] + weights["decoder.bias"]
    assert_golden(write(tmp_path, weights, config), values)


def test_a_decoder_that_differs_from_the_embedding_is_loaded_untied(tmp_path) -> None:
    weights, _, config = golden(FILES[0])
    weights["decoder.weight"] = weights["decoder.weight"] + 1
    model = neobert.load(write(tmp_path, weights, config))
    assert_close(model.decoder.weight, weights["decoder.weight"])
    assert_close(model.model.encoder.weight, weights["model.encoder.weight"])
    assert not model.config.tie_word_embeddings


def test_every_weight_that_does_not_fit_is_listed(tmp_path) -> None:
    weights, _, config = golden(FILES[0])
    del weights["model.layer_norm.weight"]
    weights["model.extra.weight"] = torch.zeros(1)
    weights["model.transformer_encoder.0.wo.weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="does not fit") as error:
        neobert.load(write(tmp_path, weights, config))
    for part in ("missing: model.layer_norm", "unexpected: model.extra", "(2, 2) instead of (64"):
        assert part in str(error.value)


def test_a_run_gives_its_newest_checkpoint(tmp_path) -> None:
    weights, values, config = golden(FILES[0])
    write(tmp_path / "checkpoints" / "10", weights, config)
    older = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    write(tmp_path / "checkpoints" / "9", older, config)
    assert_golden(tmp_path, values)


def test_a_folder_without_weights_is_an_error(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="checkpoints/<step>"):
        neobert.load(tmp_path)
