"""Models of others go through the same command, by our name and a fingerprint of theirs."""

from pathlib import Path

import mteb
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from neobert.tasks.mteb.model import load_evaluated

TEXTS = ["the river", "capital of the north", "exports"]
EXACT = "trainer.mixed_precision=no"
"""Else it depends on the CPU whether bf16 runs."""


@pytest.fixture
def bert_folder(tmp_path: Path, tokenizer_folder: Path) -> Path:
    folder = tmp_path / "bert"
    config = BertConfig(
        vocab_size=1024,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
    )
    BertModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder


def encode(encoder) -> torch.Tensor:
    from datasets import Dataset
    from mteb._create_dataloaders import create_dataloader

    metadata = mteb.get_task("STSBenchmark").metadata
    inputs = create_dataloader(
        Dataset.from_dict({"text": TEXTS}), task_metadata=metadata, batch_size=2
    )
    vectors = encoder.encode(
        inputs,
        task_metadata=metadata,
        hf_split="test",
        hf_subset="default",
        show_progress_bar=False,
    )
    return torch.tensor(vectors)


def hidden_states(folder: Path) -> list[torch.Tensor]:
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS
        ]


@pytest.mark.proves("model.from_hub", "model.name", "mteb_pooling")
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_a_plain_encoder_is_pooled_as_asked(bert_folder, compose, pooling) -> None:
    words = ["model.from_hub=true", f"model.name={bert_folder}", f"mteb_pooling={pooling}"]
    evaluated = load_evaluated(compose(*words, EXACT))
    assert evaluated.label == "bert"
    meta = evaluated.encoder.mteb_model_meta
    assert meta.name == "neobert/bert"
    assert meta.revision.split("-")[1:] == [pooling, "40"]
    ways = {"mean": lambda h: h.mean(0), "cls": lambda h: h[0], "max": lambda h: h.amax(0)}
    expected = torch.stack([ways[pooling](hidden) for hidden in hidden_states(bert_folder)])
    torch.testing.assert_close(encode(evaluated.encoder), expected, atol=1e-5, rtol=1e-4)


def test_a_sentence_transformers_folder_keeps_its_own_pooling(
    bert_folder, compose, tmp_path
) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(bert_folder), device="cpu").save(str(tmp_path / "st"))
    words = ["model.from_hub=true", f"model.name={tmp_path / 'st'}", "mteb_pooling=cls", EXACT]
    evaluated = load_evaluated(compose(*words, "mteb_prompts={STS: 'the '}"))
    assert "-own-" in evaluated.encoder.mteb_model_meta.revision
    plain = load_evaluated(compose(*words))
    expected = torch.stack([hidden.mean(0) for hidden in hidden_states(bert_folder)])
    torch.testing.assert_close(encode(plain.encoder), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(encode(evaluated.encoder), expected)
