"""Folders of ``eurobert``, written by transformers itself, are weights to start from everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.testing import assert_close
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

import neobert
from neobert.errors import ConfigError
from neobert.model.weight_files import PretrainedError
from neobert.training.start import open_weights

eurobert = pytest.importorskip("transformers.models.eurobert", reason="needs transformers 5.3")
START, END, MASK = "<|begin_of_text|>", "<|end_of_text|>", "<|mask|>"
TEXTS = [f"Document {i}: the capital of France is Paris. Text {i} follows." for i in range(40)]
SHAPE = "model.hidden_size=64 model.num_hidden_layers=2 model.num_attention_heads=4"


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose padding is the end of a text, as EuroBERT's is."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[START, END, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    core.post_processor = processors.TemplateProcessing(
        f"{START} $A {END}", f"{START} $A {END} $B {END}", [(START, 0), (END, 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=START, eos_token=END, pad_token=END, mask_token=MASK
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_eurobert(folder: Path, cls: type = eurobert.EuroBertForMaskedLM, **changes: object):
    """A random model and its tokenizer, saved by transformers."""
    tokenizer = write_tokenizer(folder)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "mask_token_id": tokenizer.mask_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 250.0},
        "initializer_range": 0.1,
    }
    torch.manual_seed(0)
    model = cls(eurobert.EuroBertConfig(**{**shape, **changes})).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_neobert_load_gives_its_logits(tied: bool, tmp_path: Path) -> None:
    write_eurobert(tmp_path, tie_word_embeddings=tied)
    original = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float32)
    model = neobert.load(tmp_path)
    assert (model.tied, model.config.rope_theta) == (tied, 250.0)
    ids = torch.randint(3, 280, (3, 128))
    with torch.no_grad():
        assert_close(model(ids).logits, original(ids).logits, atol=1e-5, rtol=0)
    assert open_weights(tmp_path).tokenizer.mask_token == MASK


@pytest.mark.parametrize("pooling", ["bos", "mean"])
def test_its_classifiers_load_as_classifiers(pooling: str, tmp_path: Path) -> None:
    from neobert.batch import PackedBatch

    cls = eurobert.EuroBertForSequenceClassification
    original = write_eurobert(tmp_path, cls, num_labels=3, classifier_pooling=pooling)
    ids = torch.randint(3, 280, (2, 20))
    scores = open_weights(tmp_path).classifier().eval()(PackedBatch.from_documents(ids.tolist()))
    assert_close(scores, original(ids).logits, atol=1e-5, rtol=0)


def test_what_neobert_cannot_represent_is_refused(tmp_path: Path) -> None:
    write_eurobert(tmp_path / "grouped", num_key_value_heads=2)
    with pytest.raises(PretrainedError, match="2 with 4 heads: grouped-query attention"):
        neobert.load(tmp_path / "grouped")
    cls = eurobert.EuroBertForSequenceClassification
    write_eurobert(tmp_path / "late", cls, classifier_pooling="late")
    with pytest.raises((PretrainedError, ConfigError), match="classifier_pooling is 'late'"):
        open_weights(tmp_path / "late").classifier()
    assert open_weights(tmp_path / "late").encoder().config.hidden_size == 64


def train(*words: str) -> str:
    """A run from the command line."""
    command = [sys.executable, "-m", "neobert.train", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@pytest.mark.slow
def test_every_task_starts_from_one(tmp_path: Path) -> None:
    folder = tmp_path / "eurobert"
    write_eurobert(folder)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("\n".join(TEXTS))
    pairs = [{"query": text[:12], "positive": text} for text in TEXTS]
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/p.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    once = ["trainer.max_steps=1", "dataset.max_seq_length=64", "trainer.save_strategy=steps"]
    printed = train(
        "task=pretraining", "optimizer=muonclip", f"model.init_from={folder}", *SHAPE.split(),
        "model.intermediate_size=144", "model.tie_word_embeddings=false",
        f"tokenizer.path={folder}", "tokenizer.train_vocab_size=null", "dataset=local",
        f"dataset.path={tmp_path / 'texts'}", "datacollator.pack_sequences=true", *once,
        f"trainer.output_dir={tmp_path / 'pretraining'}", "trainer.save_steps=1",
    )  # fmt: skip
    assert "model.rope_theta=10000.0, but the weights were trained with 250.0" in printed
    train(
        "task=glue", "glue.task_name=factbook_sections", f"glue.pretrained_model_path={folder}",
        "dataset.train_split='train[:200]'", "glue.max_seq_length=64", *once[::2],
        f"trainer.output_dir={tmp_path / 'glue'}", "trainer.save_steps=1", once[0],
    )  # fmt: skip
    source = f"mine:{{path:{tmp_path / 'pairs'},query:query,positive:positive}}"
    train(
        "task=contrastive", f"contrastive.pretrained_model_path={folder}", "dataset.name=mine",
        f"dataset.path={tmp_path / 'prepared'}", "dataset.pretraining_prob=0", *once,
        f"+contrastive.sources={{{source}}}",
        f"trainer.output_dir={tmp_path / 'contrastive'}", "trainer.save_steps=1",
    )  # fmt: skip
    for task in ("pretraining", "glue", "contrastive"):
        encoder = open_weights(tmp_path / task).encoder()
        assert encoder.config.hidden_size == 64
    assert neobert.load(tmp_path / "pretraining").tied is False
