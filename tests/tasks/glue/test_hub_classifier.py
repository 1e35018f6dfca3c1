"""Models of transformers from a folder: their tokenizer, their segments, all their weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
)

from neobert.errors import ConfigError
from neobert.tasks import run
from neobert.tasks.glue.classifier import hub_head
from neobert.tasks.glue.tasks import TASKS
from neobert.training.callbacks.interrupt import Interrupt, Interrupted
from neobert.training.hub_model import load_hub_model, load_hub_tokenizer, takes_types
from tests.tasks.glue.conftest import SPECIAL, Settings, make_tokenizer, pairs, write_rows

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)

SIZE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


def modernbert() -> PreTrainedModel:
    special = {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2}
    special |= {"sep_token_id": 3, "eos_token_id": 3}
    return ModernBertModel(ModernBertConfig(**SIZE, **special, local_attention=8))


MODELS = {
    "bert": lambda: BertModel(BertConfig(**SIZE)),
    "bert-mlm": lambda: BertForMaskedLM(BertConfig(**SIZE)),
    "modernbert": modernbert,
}


def save(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    MODELS[kind]().save_pretrained(folder)
    tokenizer = make_tokenizer([token for token in SPECIAL if token != "[MASK]"])
    from neobert.text_tokenizer import bert_template

    tokenizer.backend_tokenizer.post_processor = bert_template(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


def words(folder: Path) -> list[str]:
    return ["model.from_hub=true", f"model.name={folder}", "glue.task_name=stsb"]


@pytest.mark.proves("model.from_hub", "model.name")
@pytest.mark.parametrize(("kind", "types"), [("bert", True), ("modernbert", False)])
def test_a_model_of_transformers_is_fine_tuned(
    settings: Settings, tmp_path: Path, kind: str, types: bool
) -> None:
    write_rows(tmp_path / "data/stsb/train.jsonl", pairs(32))
    write_rows(tmp_path / "data/stsb/validation.jsonl", pairs(12, seed=4))
    folder = save(kind, tmp_path / kind)
    config = settings(*words(folder), "trainer.num_train_epochs=2", "trainer.save_strategy=epoch")
    assert takes_types(config) == types
    score = run(config)
    assert score is not None
    assert -1 <= score <= 1
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "run/checkpoints/4/model.safetensors")
    own = {name.split(".", 1)[1]: tensor for name, tensor in after.items() if "." in name}
    changed = [name for name, tensor in before.items() if not torch.equal(own[name], tensor)]
    assert len(changed) > 0.7 * len(before)  # the weights of the folder, trained on


def test_a_model_of_transformers_resumes(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "data/stsb/train.jsonl", pairs(32))
    write_rows(tmp_path / "data/stsb/validation.jsonl", pairs(12, seed=4))
    given = [*words(save("bert", tmp_path / "bert")), "trainer.num_train_epochs=2"]
    given += ["trainer.save_strategy=steps", "trainer.save_steps=1"]
    expected = run(settings(*given, f"trainer.output_dir={tmp_path / 'whole'}"))
    monkeypatch.setattr(Interrupt, "agreed", lambda self, trainer: trainer.global_step >= 3)
    with pytest.raises(Interrupted):
        run(settings(*given))
    monkeypatch.undo()
    assert run(settings(*given, "trainer.resume_from_checkpoint=latest")) == expected
    weights = json.loads((tmp_path / "run/summary.json").read_text())["weights"]
    assert weights == {"kind": "hub", "name": str(tmp_path / "bert")}


def test_padding_does_not_change_what_a_model_says(settings: Settings, tmp_path: Path) -> None:
    config = settings(*words(save("bert", tmp_path / "bert")))
    model, heads = load_hub_model(config, hub_head(config.glue, TASKS["stsb"]))
    model.eval()
    assert heads == 2
    ids = torch.tensor([[2, 5, 7, 3]])
    padded = torch.tensor([[2, 5, 7, 3, 0, 0]])
    alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    with_padding = model(input_ids=padded, attention_mask=(padded != 0).long()).logits
    torch.testing.assert_close(alone, with_padding)
    assert model.config.problem_type == "regression"


def test_a_head_of_another_task_is_left_out(settings: Settings, tmp_path: Path) -> None:
    config = settings(*words(save("bert-mlm", tmp_path / "bert")))
    model, _ = load_hub_model(config, hub_head(config.glue, TASKS["mnli"]))
    assert model.classifier.out_features == 3
    assert model.config.id2label == dict(enumerate(TASKS["mnli"].labels))


def lose_a_weight(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return r"missing: bert.encoder.layer.1.output.dense.weight"


def add_a_weight(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.7.output.dense.weight"] = torch.zeros(2, 2)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return r"unexpected: bert.encoder.layer.7"


def lose_the_file(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "could not be loaded"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("spoil", [lose_a_weight, add_a_weight, lose_the_file])
def test_a_folder_that_does_not_fit_is_refused(
    settings: Settings, tmp_path: Path, spoil: object
) -> None:
    folder = save("bert", tmp_path / "bert")
    said = spoil(folder)
    config = settings(*words(folder))
    with pytest.raises(ConfigError, match=said):
        load_hub_model(config, hub_head(config.glue, TASKS["sst2"]))


def test_texts_longer_than_the_model_are_refused(settings: Settings, tmp_path: Path) -> None:
    folder = save("bert", tmp_path / "bert")
    config = settings(*words(folder), "glue.max_seq_length=65")
    with pytest.raises(
        ConfigError, match=r"glue.max_seq_length=65 is longer than the 64 positions"
    ):
        load_hub_model(config, hub_head(config.glue, TASKS["sst2"]))


def test_a_name_that_is_nowhere_is_told(settings: Settings, tmp_path: Path) -> None:
    config = settings(*words(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"model.name=.*nowhere could not be loaded"):
        load_hub_tokenizer(config)
