"""What can be wrong with a folder of weights is found, and healthy folders are healthy."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from neobert.export.__main__ import main
from neobert.export.folder_checks.doctor import CHECKS, Patient
from neobert.export.folder_checks.verify import NoPackage
from tests.export.conftest import write_tokenizer

pytest.importorskip("transformers.models.eurobert", reason="needs transformers 5.3")
SHAPE = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
CLASSES = {
    "eurobert": ("EuroBertForMaskedLM", {"tie_word_embeddings": True, "mask_token_id": 4}),
    "modernbert": (
        "ModernBertForMaskedLM",
        {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    ),
    "bert": ("BertForSequenceClassification", {}),
}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A random model of a class, saved by transformers, with its tokenizer."""
    made: dict[str, Path] = {}

    def get(model_type: str) -> Path:
        if model_type not in made:
            architecture, more = CLASSES[model_type]
            folder = tmp_path_factory.mktemp(model_type) / "model"
            config = transformers.AutoConfig.for_model(model_type, **{**SHAPE, **more})
            torch.manual_seed(0)
            model = getattr(transformers, architecture)(config)
            model.get_input_embeddings().weight.data[0] = 0.1  # padding, which starts at zero
            model.save_pretrained(folder)
            write_tokenizer(folder)
            made[model_type] = folder
        return made[model_type]

    return get


def findings(folder: Path, trust: bool = False) -> dict[str, str]:
    """What is wrong, by check."""
    patient, found = Patient(folder, trust), {}
    for name, check in CHECKS.items():
        try:
            check(patient)
        except Exception as error:
            found[name] = str(error)
    return found


@pytest.mark.parametrize("model_type", CLASSES)
def test_a_healthy_folder_has_no_findings(healthy, model_type) -> None:
    assert findings(healthy(model_type)) == {}


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Change stored tensors."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def config(**values: object) -> Callable[[Path], None]:
    """Change settings."""

    def spoil(folder: Path) -> None:
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**known, **values}))

    return spoil


def other_code(body: str) -> Callable[[Path], None]:
    """A class of one's own whose rotary table is spoilt, as garbage after loading would."""

    def spoil(folder: Path) -> None:
        code = (
            "from transformers import EuroBertConfig, EuroBertForMaskedLM\n"
            "class Other(EuroBertForMaskedLM):\n"
            "    @classmethod\n"
            "    def from_pretrained(cls, *args, **kwargs):\n"
            "        model, info = super().from_pretrained(*args, **kwargs)\n"
            f"        table = model.model.rotary_emb.inv_freq\n        {body}\n"
            "        return model, info\n"
        )
        (folder / "other.py").write_text(code)
        auto_map = {"AutoModelForMaskedLM": "other.Other"}
        config(auto_map=auto_map, architectures=["Other"])(folder)

    return spoil


EMBEDDING, QUERY = "model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"
FAULTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "NaN": (weights(lambda w: w[QUERY][:1].fill_(torch.nan)), "numbers", f"infinite: {QUERY}"),
    "NaN in the output": (weights(lambda w: w[QUERY].fill_(torch.nan)), "output", "gives NaN"),
    "missing": (weights(lambda w: w.pop(QUERY)), "keys", f"missing: {QUERY}"),
    "unused": (weights(lambda w: w.update(extra=torch.ones(2))), "keys", "unexpected: extra"),
    "other shape": (
        weights(lambda w: w.update({QUERY: torch.ones(3, 3)})), "keys", "mismatched: .*q_proj"
    ),
    "lost tie": (
        weights(lambda w: w.update({"lm_head.weight": w[EMBEDDING] + 1})),
        "tie",
        "tie_word_embeddings is true, but the decoder is not the embedding",
    ),
    "tie not configured": (
        lambda folder: [
            weights(lambda w: w.update({"lm_head.weight": w[EMBEDDING].clone()}))(folder),
            config(tie_word_embeddings=False)(folder),
        ],
        "tie",
        "equals the embedding, but tie_word_embeddings is false",
    ),
    "rotary zeros": (other_code("table.zero_()"), "rotary", "inv_freq is all zeros"),
    "rotary NaN": (other_code("table.fill_(float('nan'))"), "rotary", "NaN or infinite"),
    "rotary garbage": (other_code("table.fill_(7.6e4)"), "rotary", r"outside \(0, 1\]"),
    "uniform attention": (
        weights(lambda w: w[QUERY].zero_()), "attention", "uniform attention in the layers 1"
    ),
    "row of zeros": (weights(lambda w: w[EMBEDDING][7].zero_()), "rows", "that are zero: 7"),
    "never trained": (
        weights(lambda w: w[EMBEDDING][20:30].fill_(0.5)), "rows", "10 rows .* equal another"
    ),
    "foreign tokenizer": (
        lambda folder: [
            weights(lambda w: w.update({EMBEDDING: w[EMBEDDING][:50].clone()}))(folder),
            config(vocab_size=50)(folder),
        ],
        "vocabulary",
        r"ids up to 1\d\d, the embedding 50 rows",
    ),
    "other padding": (config(pad_token_id=5), "vocabulary", "pad id 0 of the tokenizer, 5 of"),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        "vocabulary",
        "",
    ),
    "mixed types": (
        weights(lambda w: w.update({QUERY: w[QUERY].half()})), "stored type", "float16, float32"
    ),
    "wrong type": (config(dtype="bfloat16"), "stored type", "says bfloat16, .* are float32"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(), "numbers", "no .*safetensors"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found(healthy, tmp_path, name) -> None:
    spoil, check, message = FAULTS[name]
    folder = tmp_path / "model"
    shutil.copytree(healthy("eurobert"), folder)
    spoil(folder)
    found = findings(folder, trust=(folder / "other.py").exists())
    assert re.search(message, found[check]), found


PARTS = {  # of a model: its embedding, and the layer that decides what the second block attends to
    "modernbert": (
        "model.embeddings.tok_embeddings.weight",
        "model.layers.1.attn.Wqkv.weight",
    ),
    "bert": (
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.1.attention.self.query.weight",
    ),
}


@pytest.mark.parametrize("model_type", PARTS)
def test_faults_of_other_architectures_are_found(healthy, tmp_path, model_type) -> None:
    table, query = PARTS[model_type]

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[query].zero_()
        tensors[table][7].zero_()
        tensors[table][20:30].fill_(0.5)
        tensors["extra"] = torch.ones(2)
        if model_type == "modernbert":
            tensors["decoder.weight"] = tensors[table] + 1

    folder = tmp_path / "model"
    shutil.copytree(healthy(model_type), folder)
    weights(spoil)(folder)
    config(pad_token_id=5)(folder)
    expected = {
        "keys": "unexpected: extra",
        "attention": "uniform attention in the layers 1",
        "rows": "that are zero: 7",
        "vocabulary": "pad id 0 of the tokenizer, 5 of",
    }
    if model_type == "modernbert":
        expected["tie"] = "the decoder is not the embedding"
    problems = findings(folder)
    assert problems.keys() == expected.keys()
    assert all(re.search(expected[check], problems[check]) for check in expected), problems


@pytest.mark.slow
def test_the_command_reports_as_json_with_an_exit_code(healthy, tmp_path, capsys) -> None:
    def check(folder: Path) -> tuple[int, dict]:
        code = main(["--check", str(folder), "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, report = check(healthy("bert"))
    assert (code, report["ok"]) == (0, True)
    assert {finding["name"] for finding in report["findings"]} == {*CHECKS, "trainer"}
    folder = tmp_path / "model"
    shutil.copytree(healthy("eurobert"), folder)
    code, report = check(folder)
    assert (code, report["ok"]) == (0, True), report
    assert "outputs" in {finding["name"] for finding in report["findings"]}, "compared with ours"
    FAULTS["row of zeros"][0](folder)
    FAULTS["lost tie"][0](folder)
    code, report = check(folder)
    bad = {finding["name"] for finding in report["findings"] if not finding["ok"]}
    assert (code, report["ok"], {"rows", "tie"} <= bad) == (1, False, True)
    FAULTS["rotary zeros"][0](folder)
    code, report = check(folder)
    assert (code, report["ok"]) == (2, False)
    assert "--trust-remote-code" in report["error"]


def test_a_model_that_imports_this_package_is_told_so() -> None:
    with pytest.raises(ImportError, match=r"must not import neobert\.batch"):
        NoPackage().find_spec("neobert.batch", None)
    assert NoPackage().find_spec("neobert_other", None) is None
