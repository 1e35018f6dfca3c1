"""A model with a tokenizer that tools can load: the golden one, whose vocabulary has 96 tokens."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "golden/swiglu_rmsnorm_rope.safetensors"
WORDS = [
    "the",
    "a",
    "of",
    "in",
    "capital",
    "country",
    "is",
    "was",
    "and",
    "river",
    "city",
    "north",
    "south",
    "sea",
    "big",
    "small",
]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``config.json``, weights and tokenizer, as exported."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("golden") / "model"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad", "unk", "cls", "sep", "mask")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{name}_token": token for name, token in zip(names, special, strict=True)},
    ).save_pretrained(folder)
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["config"])
    weights = {key[2:]: value for key, value in load_file(GOLDEN).items() if key.startswith("w.")}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "neobert", **config}))
    return folder


@pytest.fixture
def other_folder(model_folder: Path, tmp_path: Path) -> Path:
    """The same with other weights."""
    folder = tmp_path / "other"
    shutil.copytree(model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layer_norm.weight"] = weights["model.layer_norm.weight"] * 1.5
    save_file(weights, folder / "model.safetensors")
    return folder
