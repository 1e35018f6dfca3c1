"""A tiny encoder with its tokenizer, and tasks that it can learn in seconds."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from neobert.config.compose import compose_config
from neobert.config.model import ModelConfig
from neobert.config.root import Config
from neobert.model.heads import MaskedLM
from neobert.tasks.glue.data import GlueDataModule
from neobert.training.encoder_start import EncoderStart

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "bad", "film", "the", "a", "was", "is", "plot", "play", "end", "very", "not"]
VOCABULARY = 128

Rows = Sequence[dict[str, object]]
Settings = Callable[..., Config]


def make_tokenizer(special: Sequence[str] = SPECIAL) -> PreTrainedTokenizerFast:
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{token.strip('[]').lower()}_token": token for token in special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder: 2 blocks of 32, vocabulary of 128."""
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "embedding_init_range": 1.0,
        "decoder_init_range": 0.3,
    }
    torch.manual_seed(1)
    model = MaskedLM(ModelConfig(**settings), VOCABULARY, 0)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_tokenizer().save_pretrained(folder)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"pad_token_id": 0, **settings}))
    return folder


def sentences(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Sentences that are good (1) or bad (0), which one word tells."""
    draw = torch.Generator().manual_seed(seed)
    found: list[dict[str, object]] = []
    for number in range(count):
        length = int(torch.randint(1, 8, (), generator=draw))
        picks = torch.randint(2, len(WORDS), (length,), generator=draw).tolist()
        label = number % 2
        words = [WORDS[pick] for pick in picks]
        words.insert(int(torch.randint(0, length + 1, (), generator=draw)), WORDS[1 - label])
        found.append({"sentence": " ".join(words), "label": label, "idx": number})
    return found


def pairs(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Pairs whose score is high (4) if both are good or both bad, else low (1)."""
    first, second = sentences(count, seed), sentences(count, seed + 1)
    second = second[: count // 2] + second[count // 2 - 1 :: -1]  # alike, then unlike
    return [
        {
            "sentence1": one["sentence"],
            "sentence2": two["sentence"],
            "label": 4.0 if one["label"] == two["label"] else 1.0,
            "idx": number,
        }
        for number, (one, two) in enumerate(zip(first, second, strict=True))
    ]


def write_rows(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_splits(folder: Path, **splits: Rows) -> Path:
    for name, rows in splits.items():
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


def data_module(
    config: Config, tokenizer: PreTrainedTokenizerFast, packed: bool = True, has_types: bool = False
) -> GlueDataModule:
    """The data of a run; ``packed=False`` pads, for models of transformers."""
    data = GlueDataModule(config, EncoderStart("encoder", tokenizer, config.model))
    data.packed, data.has_types = packed, has_types
    return data


@pytest.fixture
def sst2(tmp_path: Path) -> Path:
    """A folder with a task ``sst2`` of 96 + 40 sentences and 10 to predict."""
    folder = tmp_path / "data"
    write_rows(folder / "sst2/train.jsonl", sentences(96))
    write_rows(folder / "sst2/validation.jsonl", sentences(40, seed=5))
    unlabelled = [{**row, "label": -1} for row in sentences(10, seed=6)]
    write_rows(folder / "sst2/test.jsonl", unlabelled)
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Makes the settings of a run in ``tmp_path/run``; words of the command line override."""

    def make(*words: str) -> Config:
        return compose_config(
            [
                "task=glue",
                "glue.task_name=sst2",
                f"dataset.path={tmp_path / 'data'}",
                f"dataset.cache_dir={tmp_path / 'cache'}",
                f"trainer.output_dir={tmp_path / 'run'}",
                "trainer.mixed_precision=no",
                "trainer.use_cpu=true",
                "trainer.disable_tqdm=true",
                "trainer.per_device_train_batch_size=16",
                "glue.max_seq_length=32",
                "optimizer.lr=3e-3",
                *words,
            ]
        )

    return make
