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
from neobert.config.model import ModelConfig
from neobert.model.heads import MaskedLM
from neobert.training.manifest import write_manifest

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


@pytest.mark.proves("model.pad_token_id")
def test_the_id_of_padding_is_that_of_the_folder(tmp_path: Path) -> None:
    weights, _, config = golden(FILES[0])
    folder = write(tmp_path, weights, {**config, "pad_token_id": 3})
    assert neobert.load(folder).model.pad_token_id == 3


@pytest.mark.proves("model.max_position_embeddings", "model.vocab_size")
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


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_prefixes_of_what_wrapped_the_model_are_taken_off(tmp_path, prefix) -> None:
    weights, values, config = golden(FILES[0])
    wrapped = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    assert_golden(write(tmp_path, wrapped, config), values)


def test_two_weights_that_have_one_name_without_their_prefixes_are_refused(tmp_path) -> None:
    weights, _, config = golden(FILES[0])
    weights["module.model.layer_norm.weight"] = weights["model.layer_norm.weight"].clone()
    with pytest.raises(ValueError, match="two weights have one name"):
        neobert.load(write(tmp_path, weights, config))


def test_a_run_of_the_reference_is_read(tmp_path) -> None:
    """Its settings in ``config.yaml``, its pad id beside it, the tied decoder stored as a copy."""
    weights, values, config = golden(FILES[0])
    weights["decoder.weight"] = weights["model.encoder.weight"].clone()
    folder = write(tmp_path / "run" / "checkpoints" / "500", weights, config)
    (folder / "config.json").unlink()
    shape = {name: config[name] for name in ("hidden_size", "num_hidden_layers", "vocab_size")}
    shape |= {name: config[name] for name in ("num_attention_heads", "intermediate_size")}
    section = {**shape, "max_position_embeddings": 64, "norm_eps": "1e-6"}
    section |= {"attn_backend": "flash_attn_varlen", "dropout_prob": 0.1, "from_hub": False}
    (folder / "config.yaml").write_text(json.dumps({"task": "pretraining", "model": section}))
    information = {"pad_token_id": config.get("pad_token_id", 0), "vocab_size": 96}
    (folder / "tokenizer_info.json").write_text(json.dumps(information))
    assert_golden(tmp_path / "run", values)


def after_padding(weights: dict[str, Tensor], pad: int) -> dict[str, Tensor]:
    """The same model in chandar-lab's layout: its first token has row ``pad + 1``."""
    name = "model.positional_embedding.weight"
    table = torch.cat([torch.randn(pad, weights[name].shape[1]), weights[name]])
    return {**weights, name: table}


@pytest.mark.parametrize("sign", ["decoder.bias", "max_length alone", "none of them"])
@pytest.mark.parametrize("pad", [0, 7])
def test_positions_that_start_after_the_pad_id_are_recognised(tmp_path, sign: str, pad) -> None:
    weights, values, config = golden(FILES[1])
    real = values["in.input_ids"][values["in.attention_mask"].bool()]
    assert pad not in real, "else it is no padding"
    length = len(weights["model.positional_embedding.weight"]) - 1
    shifted = pad if sign != "none of them" else 0
    config |= {"pad_token_id": pad, "max_length": length + shifted}
    if sign != "max_length alone":
        config["max_position_embeddings"] = length + shifted
    if sign == "decoder.bias":
        weights["decoder.bias"] = torch.randn(96)
        values["out.logits"] = values["out.logits"] + weights["decoder.bias"]
    folder = write(tmp_path, after_padding(weights, shifted), config)
    assert_golden(folder, values)
    assert neobert.load(folder).config.max_position_embeddings == length


def test_packed_gates_have_positions_after_the_pad_id(tmp_path) -> None:
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings |= {"intermediate_size": 24, "vocab_size": 11, "rope": False, "pad_token_id": 4}
    model = MaskedLM(ModelConfig(**settings, max_position_embeddings=9), 11, 4).eval()
    weights = after_padding({k: w.detach() for k, w in model.state_dict().items()}, 4)
    ffn = "model.transformer_encoder.0.ffn."
    gates = [weights.pop(f"{ffn}{part}.weight") for part in ("w1", "w2")]
    weights[f"{ffn}w12.weight"] = torch.cat(gates)
    del weights["decoder.weight"]
    folder = write(tmp_path, weights, {**settings, "max_position_embeddings": 13, "norm_eps": 1e-5})
    tokens = torch.tensor([[2, 7, 3, 9]])
    assert_close(neobert.load(folder)(tokens).logits, model(tokens).logits)


def test_our_own_positions_are_not_moved_twice(tmp_path) -> None:
    """A run that started from chandar-lab's weights keeps their decoder's bias."""
    weights, values, config = golden(FILES[1])
    weights["decoder.bias"] = torch.zeros(96)
    length = len(weights["model.positional_embedding.weight"]) - 1
    config = {"pad_token_id": 7, "max_position_embeddings": length, **config}
    config = {key: value for key, value in config.items() if key != "max_length"}
    assert_golden(write(tmp_path / "exported", weights, {**config, "decoder_bias": True}), values)
    run = write(tmp_path / "run" / "checkpoints" / "3", weights, config)
    section = {"num_hidden_layers": 28, "norm_eps": 1e-6, **config}
    (run / "config.json").unlink()
    (run / "config.yaml").write_text(json.dumps({"model": section}))
    (run / "trainer_state.pt").write_bytes(b"")
    write_manifest(run)
    assert_golden(tmp_path / "run", values)


def test_tensors_that_chandar_labs_ngpt_never_uses_are_left_out(tmp_path) -> None:
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings |= {"intermediate_size": 24, "vocab_size": 11, "ngpt": True}
    model = MaskedLM(ModelConfig(**settings), 11, 0).eval()
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    unused = {"model.sz": torch.randn(11), "model.layer_norm.weight": torch.randn(16)}
    folder = write(tmp_path, {**weights, **unused}, settings)
    tokens = torch.tensor([[2, 7, 3, 9]])
    assert_close(neobert.load(folder)(tokens).logits, model(tokens).logits)
    with pytest.raises(ValueError, match=r"unexpected: model\.sz"):
        neobert.load(write(tmp_path, {**weights, **unused}, {**settings, "ngpt": False}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_become_fp32(tmp_path, dtype) -> None:
    weights, _, config = golden(FILES[0])
    half = {name: tensor.to(dtype) for name, tensor in weights.items()}
    model = neobert.load(write(tmp_path, half, config))
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())
    assert_close(model.model.encoder.weight, half["model.encoder.weight"].float())


def test_shards_are_put_together(tmp_path) -> None:
    weights, values, config = golden(FILES[1])
    write(tmp_path, weights, config)
    (tmp_path / "model.safetensors").unlink()
    places = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: weights[name].contiguous() for name in names}, tmp_path / file)
        places |= dict.fromkeys(names, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert_golden(tmp_path, values)


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
