"""What a run starts from: every weight in its place, or one clear error."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from neobert.errors import ConfigError
from neobert.model.encoder import Encoder
from neobert.model.heads import MaskedLM
from neobert.tasks.contrastive.starting_model import open_start
from tests.tasks.contrastive.conftest import word_tokenizer


@pytest.mark.proves("contrastive.pretrained_model_path")
def test_every_weight_of_the_folder_is_in_the_encoder(settings, model_folder: Path):
    start = open_start(settings(), None)
    stored = load_file(model_folder / "model.safetensors")
    assert isinstance(start.model, Encoder)
    assert len(start.model.state_dict()) == len(stored)
    for name, tensor in start.model.state_dict().items():
        assert torch.equal(tensor, stored[f"model.{name}"]), name


def test_the_shape_is_that_of_the_weights_and_dropout_that_of_the_settings(settings):
    start = open_start(settings("model.hidden_size=96", "model.dropout_prob=0.25"), None)
    assert start.config.model.hidden_size == start.model.config.hidden_size == 32
    assert start.config.model.dropout_prob == start.model.config.dropout_prob == 0.25
    assert start.model.transformer_encoder[0].dropout.p == 0.25


def test_masked_steps_bring_the_decoder_along(settings, model_folder: Path):
    asked = settings("dataset.pretraining_prob=0.5", "contrastive.pretraining_step=mlm")
    start = open_start(asked, None)
    assert isinstance(start.model, MaskedLM)
    assert start.model.decoder.weight is start.model.model.encoder.weight
    never = settings("dataset.pretraining_prob=0", "contrastive.pretraining_step=mlm")
    assert isinstance(open_start(never, None).model, Encoder)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_a_folder_that_lacks_weights_or_has_more_is_refused(
    change: str, settings, model_folder: Path, tmp_path: Path
):
    folder = tmp_path / "broken"
    shutil.copytree(model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    name = "model.transformer_encoder.1.wo.weight"
    if change == "missing":
        del weights[name]
    else:
        weights["model.transformer_encoder.1.wo.bias"] = torch.zeros(32)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=f"^contrastive.pretrained_model_path=(?s:.*){change}"):
        open_start(settings(f"contrastive.pretrained_model_path={folder}"), None)


@pytest.mark.proves("contrastive.allow_random_weights")
def test_random_weights_have_to_be_asked_for(settings, tmp_path: Path):
    nothing = settings("contrastive.pretrained_model_path=null")
    with pytest.raises(ConfigError, match="starts from no weights"):
        open_start(nothing, None)
    word_tokenizer().save_pretrained(tmp_path / "tokenizer")
    asked = replace(
        nothing,
        contrastive=replace(nothing.contrastive, allow_random_weights=True),
        tokenizer=replace(
            nothing.tokenizer, path=str(tmp_path / "tokenizer"), train_vocab_size=None
        ),
        model=replace(nothing.model, hidden_size=36, num_attention_heads=3, num_hidden_layers=1),
    )
    start = open_start(asked, None)
    assert start.model.config.hidden_size == 36
    assert start.model.vocab_size == start.config.model.vocab_size == 128


def test_a_tokenizer_larger_than_the_embedding_is_refused(settings, model_folder, tmp_path: Path):
    folder = tmp_path / "other"
    shutil.copytree(model_folder, folder)
    tokenizer = word_tokenizer()
    tokenizer.add_tokens([f"word{number}" for number in range(200)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match="128 rows, but the tokenizer has ids up to 232"):
        open_start(settings(f"contrastive.pretrained_model_path={folder}"), None)


def test_texts_longer_than_the_model_takes_are_refused(settings):
    with pytest.raises(ConfigError, match=r"longer than model.max_position_embeddings=32"):
        open_start(settings("dataset.max_seq_length=64"), None)


def test_two_places_to_start_from_are_refused(settings):
    with pytest.raises(ConfigError, match="are both set: keep the one to start from"):
        settings("contrastive.pretrained_checkpoint_dir=somewhere")
