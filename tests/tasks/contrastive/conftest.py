"""An encoder with a tokenizer of few words, and pairs made of them."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

TOPICS = ("river", "mountain", "island", "city", "desert", "forest", "harbour", "valley")
FACTS = ("long", "high", "small", "old", "dry", "green", "busy", "deep")
PLACES = ("north", "south", "east", "west", "inland", "abroad", "here", "there")
WORDS = (*TOPICS, *FACTS, *PLACES, "the", "of", "is", "a")


def word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad", "unk", "cls", "sep", "mask")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{name}_token": token for name, token in zip(names, special, strict=True)},
    )


@pytest.fixture(scope="session")
def info():
    """The tokenizer as the task knows it."""
    from neobert.data.tokenizer import describe_tokenizer

    return describe_tokenizer(word_tokenizer(), "words")


def encoder(info, max_length: int, query_prefix: str = ""):
    """What turns pairs into tokens of the tokenizer ``info``."""
    from neobert.tasks.contrastive.pair_encoder import PairEncoder

    return PairEncoder(info.text, info.fingerprint, max_length, query_prefix)


def small_config(**changes: object):
    from neobert.config.model import ModelConfig

    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 32,
    }
    return ModelConfig(**{**shape, **changes})


def write_model(folder: Path) -> Path:
    """A masked language model in the published layout, of random weights."""
    from neobert.model.heads import MaskedLM

    torch.manual_seed(0)
    config = small_config()
    model = MaskedLM(config, vocab_size=128, pad_token_id=0)
    weights = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name != "decoder.weight"
    }
    word_tokenizer().save_pretrained(folder)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "neobert", "pad_token_id": 0, **asdict(config)})
    )
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("start") / "model")


def pairs(count: int = 512) -> list[dict[str, object]]:
    """``the river north`` → ``is long of inland``: no word in common, but a rule to learn.

    The hard negative is right in its place and wrong in its fact.
    """
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        topic, place = draw.randrange(8), draw.randrange(8)
        other = (topic + draw.randrange(1, 8)) % 8
        far = PLACES[(place + 4) % 8]
        rows.append(
            {
                "question": f"the {TOPICS[topic]} {PLACES[place]}",
                "answer": f"is {FACTS[topic]} of {far}",
                "wrong": [f"is {FACTS[other]} of {far}"],
            }
        )
    return rows


def write_jsonl(file: Path, rows: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs())


@pytest.fixture
def settings(model_folder: Path, pairs_file: Path, tmp_path: Path) -> Callable[..., object]:
    """Settings of a small run on own pairs; words of a command line come on top."""
    from neobert.config.compose import compose_config

    base = [
        "task=contrastive",
        "dataset.name=own",
        f"contrastive.sources={{own:{{path:{pairs_file},query:question,positive:answer,"
        "negatives:['wrong[]']}}",
        f"contrastive.pretrained_model_path={model_folder}",
        f"dataset.path={tmp_path / 'prepared'}",
        f"dataset.cache_dir={tmp_path / 'cache'}",
        "dataset.max_seq_length=16",
        "dataset.pretraining_prob=0",
        "dataset.validation_split=0.2",
        "trainer.per_device_train_batch_size=8",
        "trainer.max_steps=4",
        "trainer.eval_steps=4",
        "trainer.save_steps=2",
        "trainer.logging_steps=1",
        "trainer.mixed_precision=no",
        "trainer.disable_tqdm=true",
        f"trainer.output_dir={tmp_path / 'run'}",
        "optimizer.lr=3e-3",
    ]

    def make(*words: str):
        given = {word.partition("=")[0] for word in words}
        kept = [word for word in base if word.partition("=")[0] not in given]
        return compose_config([*kept, *words])

    return make
