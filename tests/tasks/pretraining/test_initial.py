"""Pretraining goes on from weights of any origin, and only from those that fit."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import neobert
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.errors import ConfigError

from .conftest import TinyRun


def losses(run: Path) -> dict[int, float]:
    """Evaluation losses by their step."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("eval/loss")]
    return {int(row["step"]): float(row["eval/loss"]) for row in rows}


def published(checkpoint: Path, folder: Path, rows: int) -> Path:
    """The checkpoint as others publish theirs: no run around it, a vocabulary of ``rows``."""
    config = vars(neobert.load(checkpoint).config)
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.encoder.weight"] = weights["model.encoder.weight"][:rows].clone()
    weights.pop("decoder.weight", None)
    shutil.copytree(checkpoint / "tokenizer", folder)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "neobert", **config}))
    return folder


@pytest.mark.proves("model.init_from")
def test_a_run_starts_where_another_ended_and_goes_on(tiny_run: TinyRun) -> None:
    first = tiny_run(folder="first")
    start = (f"model.init_from={first}", "trainer.eval_on_start=true")
    second = losses(tiny_run(*start, "model.dropout_prob=0.1", folder="second"))
    assert second[0] == pytest.approx(losses(first)[4], abs=1e-6)
    assert second[4] < second[0]


@pytest.mark.proves("pretrained_checkpoint")
def test_a_run_starts_from_the_checkpoint_that_is_named(tiny_run: TinyRun) -> None:
    first = tiny_run(folder="first")
    for selector, step in (("latest", 4), ("2", 2)):
        words = [f"model.init_from={first}", f"pretrained_checkpoint={selector}"]
        second = tiny_run(*words, "trainer.eval_on_start=true", folder=f"from-{selector}")
        assert losses(second)[0] == pytest.approx(losses(first)[step], abs=1e-6)


def test_a_checkpoint_knows_the_size_of_its_vocabulary(tiny_run: TinyRun) -> None:
    checkpoint = tiny_run("model.pad_token_id=9") / "checkpoints" / "4"
    section = yaml.safe_load((checkpoint / "config.yaml").read_text())["model"]
    rows = load_file(checkpoint / "model.safetensors")["model.encoder.weight"].shape[0]
    assert (section["vocab_size"], section["pad_token_id"]) == (rows, 0)


def test_published_weights_keep_their_number_of_rows(tiny_run: TinyRun, tmp_path: Path) -> None:
    checkpoint = tiny_run(folder="first") / "checkpoints" / "4"
    rows = len(saved_tokenizer(checkpoint))
    assert rows % 128, "else the test shows nothing"
    folder = published(checkpoint, tmp_path / "published", rows)
    run = tiny_run(f"model.init_from={folder}", "optimizer.lr=1e-9", folder="second")
    after, before = neobert.load(run), neobert.load(folder)
    assert after.vocab_size == rows
    torch.testing.assert_close(after.decoder.weight, before.decoder.weight, atol=1e-6, rtol=0)


def test_a_run_resumes_when_the_weights_it_started_from_are_gone(tiny_run: TinyRun) -> None:
    first = tiny_run(folder="first")
    start = f"model.init_from={first}"
    run = tiny_run(start, folder="second")
    expected = load_file(run / "checkpoints" / "4" / "model.safetensors")
    shutil.rmtree(run / "checkpoints" / "4")
    shutil.rmtree(first)
    tiny_run(start, "trainer.resume_from_checkpoint=latest", folder="second")
    again = load_file(run / "checkpoints" / "4" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_weights_that_do_not_fit_the_settings_are_refused(tiny_run: TinyRun) -> None:
    first = tiny_run(folder="first")
    for override, message in (
        ("model.hidden_size=32", r"add: model\.hidden_size=16"),
        ("model.rms_norm=false", r"add: model\.rms_norm=true"),
        ("model.tie_word_embeddings=false", r"add: model\.tie_word_embeddings=true"),
        ("tokenizer.train_vocab_size=64", "trained with another tokenizer than wordpiece-64"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny_run(f"model.init_from={first}", override, folder="second")


def test_a_folder_without_weights_is_named(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.init_from=.*there is no such folder"):
        tiny_run(f"model.init_from={tmp_path / 'nothing'}")
