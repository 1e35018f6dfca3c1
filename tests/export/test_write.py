"""Exporting whole folders: of every architecture and task, or not at all."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import neobert
from neobert.config.store import load_config_file
from neobert.errors import ConfigError
from neobert.export.__main__ import main
from neobert.export.check import ExportError, check_code, run_checks
from neobert.export.folder_checks.verify import CHECKS
from neobert.export.modeling_neobert import NeoBERTConfig
from neobert.export.source import read_source
from neobert.export.write import choose_format, export
from neobert.model.weight_files import PretrainedError
from neobert.training.manifest import write_manifest
from neobert.training.start import open_weights

DOCS = Path(__file__).parents[2] / "docs/export.md"

PREFIXED = {"query_prefix": "Query: ", "pooling": "cls"}
NAMES = ("no", "perhaps", "yes")
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "default": ("pretraining", {}),
    "learned positions, LayerNorm, GELU": (
        "pretraining",
        {"rope": False, "rms_norm": False, "hidden_act": "gelu"},
    ),
    "untied": ("pretraining", {"tie_word_embeddings": False, "rope_theta": 500.0}),
    "nGPT": ("pretraining", {"ngpt": True, "base_scale": 0.2}),
    "regression": ("glue", {"labels": 1}),
    "encoder": ("contrastive", PREFIXED),
}
"""Exported in our format."""

LINEAR = {"rope_type": "linear", "factor": 2.0}
GELU = {"classifier_activation": "gelu", "classifier_pooling": "avg", "names": NAMES}
ONE_LAYER = {"classifier_activation": "none", "labels": 1}
NATIVE: dict[str, tuple[str, dict[str, object], str]] = {
    "native": ("pretraining", {}, "EuroBertForMaskedLM"),
    "native, untied": (
        "pretraining",
        {"tie_word_embeddings": False, "rope_theta": 500.0, "rope_scaling": LINEAR},
        "EuroBertForMaskedLM",
    ),
    "native encoder": ("contrastive", PREFIXED, "EuroBertModel"),
    "native classifier": ("glue", GELU, "EuroBertForSequenceClassification"),
    "native one-layer classifier": ("glue", ONE_LAYER, "UltrabertForSequenceClassification"),
}
"""Exported for a class of transformers: that of the last column."""


@pytest.fixture(scope="session")
def exported(make_run, tmp_path_factory) -> Callable[[str], Path]:
    """The exported folder of one of ``MODELS``; made once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            task, changes = MODELS[name] if name in MODELS else NATIVE[name][:2]
            format_ = "neobert" if name in MODELS else "auto"
            made[name] = tmp_path_factory.mktemp("exported") / "model"
            findings = export(make_run(task, **changes), made[name], format_=format_)
            assert [finding.name for finding in findings] == list(CHECKS)
            assert all(finding.ok for finding in findings)
        return made[name]

    return get


@pytest.mark.slow
@pytest.mark.proves("model.rope", "model.rms_norm", "model.hidden_act")
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_exports_and_passes_its_checks(exported, name) -> None:
    folder = exported(name)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert not list(folder.parent.glob(".*")), "the temporary folder is gone"


@pytest.mark.slow
@pytest.mark.proves("glue.classifier_activation", "glue.classifier_pooling")
@pytest.mark.parametrize("name", NATIVE)
def test_what_a_class_of_transformers_represents_loads_without_our_code(exported, name) -> None:
    pytest.importorskip("transformers.models.ultrabert", reason="needs transformers 5.20")
    folder = exported(name)
    assert not list(folder.rglob("*.py"))
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [NATIVE[name][2]]
    assert "auto_map" not in config
    assert "trust_remote_code" not in (folder / "README.md").read_text()
    if "names" in NATIVE[name][1]:
        assert tuple(config["id2label"].values()) == NAMES


@pytest.mark.parametrize(
    ("task", "changes", "reason"),
    [
        ("pretraining", {"rope": False, "rms_norm": False}, "learned positions, LayerNorm"),
        ("pretraining", {"ngpt": True}, "no class with nGPT"),
        ("glue", {}, r"glue\.classifier_activation=gelu .* trains one that exports natively"),
    ],
)
def test_what_no_class_represents_is_exported_with_our_code(
    make_run, tmp_path, task, changes, reason, caplog
) -> None:
    source = read_source(make_run(task, **changes))
    with caplog.at_level("INFO"):
        assert choose_format(source, "auto") is None
    assert re.search(f"in neobert format: .*{reason}", caplog.text)
    with pytest.raises(ConfigError, match=f"--format native: .*{reason}.*--format neobert"):
        choose_format(source, "native")
    command = [str(source.folder), "--output", str(tmp_path / "model"), "--format", "native"]
    assert main(command) == 2
    assert not list(tmp_path.iterdir())


def snippets(page: Path) -> list[str]:
    """The blocks of Python on a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def run_snippets(code: list[str], folder: Path) -> str:
    """Execute code as a reader would, in ``folder`` and in a process without this package."""
    block = "import sys\nsys.modules['neobert'] = None\n"
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-I", "-c", "\n".join([block, *code])],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "PATH": "/usr/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_snippets_of_card_and_docs_run(exported, make_run, tmp_path, monkeypatch) -> None:
    pytest.importorskip("sentence_transformers")
    for name in ("my-model", "my-encoder"):
        (tmp_path / name).symlink_to(exported("native"))
    ours = [code for code in snippets(DOCS) if "import neobert" in code]
    theirs = [code for code in snippets(DOCS) if code not in ours]
    page = DOCS.parents[1] / "README.md"
    readme = [code for code in snippets(page) if "import neobert" not in code]
    assert (len(ours), len(theirs), len(readme)) == (1, 3, 1)
    assert "trust_remote_code" not in "".join([*theirs, *readme])
    for name in ("native", "default"):
        card = exported(name) / "README.md"
        assert ("trust_remote_code=True" in card.read_text()) == (name == "default")
        printed = run_snippets(snippets(card) + theirs * (name == "native"), tmp_path)
        assert re.search(r"^\S+ 0\.\d+$", printed, re.MULTILINE)
    printed = run_snippets(readme, tmp_path)
    assert re.search(r"^\(2, 32\)$", printed, re.MULTILINE), "two sentences"
    (tmp_path / "output").mkdir()
    (tmp_path / "output/my-run").symlink_to(make_run())
    monkeypatch.chdir(tmp_path)
    exec(ours[0], {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21
@pytest.mark.parametrize(
    ("name", "auto", "task"),
    [
        ("native", transformers.AutoModelForMaskedLM, None),
        ("native", transformers.AutoModelForTokenClassification, "TOKEN_CLS"),
        ("native encoder", transformers.AutoModel, "FEATURE_EXTRACTION"),
        ("native classifier", transformers.AutoModelForSequenceClassification, "SEQ_CLS"),
        ("native one-layer classifier", transformers.AutoModelForSequenceClassification, "SEQ_CLS"),
    ],
)
def test_lora_of_a_native_model_gives_equal_outputs_after_saving(
    exported, tmp_path, name, auto, task
) -> None:
    peft = pytest.importorskip("peft")
    batch = {"input_ids": torch.tensor([[2, 9, 17, 3]]), "attention_mask": torch.ones(1, 4).long()}
    settings = peft.LoraConfig(
        target_modules=["q_proj", "v_proj"], task_type=task, init_lora_weights=False
    )
    model = peft.get_peft_model(auto.from_pretrained(exported(name)), settings).eval()
    model.save_pretrained(tmp_path)
    restored = peft.PeftModel.from_pretrained(auto.from_pretrained(exported(name)), tmp_path)
    torch.testing.assert_close(restored.eval()(**batch)[0], model(**batch)[0], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_snippets_of_an_embedding_model_s_card_run(exported, tmp_path) -> None:
    pytest.importorskip("sentence_transformers")
    card = exported("native encoder") / "README.md"
    assert "`Query: `" in card.read_text()
    printed = run_snippets(snippets(card), tmp_path)
    # Two cosines; torch writes them with a place for the sign, and tiny ones with an exponent.
    row = re.search(r"tensor\(\[\[(.+),(.+)\]\]", printed)
    assert row
    assert all(-1.0001 <= float(cosine) <= 1.0001 for cosine in row.groups())


@pytest.mark.slow
def test_the_card_says_where_the_weights_come_from(exported) -> None:
    folder = exported("default")
    card = (folder / "README.md").read_text()
    for part in (
        "pipeline_tag: fill-mask",
        "for texts of up to 64 tokens",
        "| tokens of text | 123,456 |",
        "| eval/loss | 2.5 |",
        "python -m neobert.train experiment=quickstart",
        "![Loss over the steps of training](loss.png)",
        "@article{breton2025neobert",
        "| optimizer | adamw, rate 0.0001, decay 0.01 |",
    ):
        assert part in card
    assert load_config_file(folder / "training_config.yaml").task == "pretraining"
    assert (folder / "loss.png").is_file()


@pytest.mark.slow
def test_transformers_4_loads_what_is_exported_here(exported) -> None:
    python = Path(__file__).parents[2] / ".venv-transformers4/bin/python"
    if not python.exists():
        pytest.skip("make venv-transformers4")
    assert main(["--check", str(exported("default")), "--python", str(python)]) == 0


def spoil(run: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """The run's checkpoint with other weights, as if it had been trained to them."""
    (folder,) = (run / "checkpoints").iterdir()
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_manifest(folder)
    return run


@pytest.mark.slow
def test_a_model_with_nan_is_refused_and_nothing_is_left(make_run, tmp_path) -> None:
    run = spoil(
        make_run(), lambda weights: weights["model.layer_norm.weight"][3:4].fill_(torch.nan)
    )
    with pytest.raises(ExportError, match=r"NaN or infinite: model\.norm\.weight"):
        export(run, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.layer_norm.weight"), "missing: model.layer_norm.weight"),
        (lambda w: w.update(extra=torch.ones(2)), "unexpected: extra"),
        (
            lambda w: w.update({"model.layer_norm.weight": torch.ones(7)}),
            r"model.layer_norm.weight has shape \(7,\) instead of \(32,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(make_run, tmp_path, change, message) -> None:
    with pytest.raises(PretrainedError, match=message):
        export(spoil(make_run(), change), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_refused(make_run, tmp_path) -> None:
    run = make_run()
    (weights,) = run.glob("checkpoints/*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(PretrainedError, match="its SHA-256 is not the recorded one"):
        export(run, tmp_path / "model")


def test_a_foreign_tokenizer_is_refused(make_run, tmp_path) -> None:
    run = spoil(
        make_run(),
        lambda w: w.update({"model.encoder.weight": w["model.encoder.weight"][:100].clone()}),
    )
    with pytest.raises(PretrainedError, match="has 100 rows, but the tokenizer has ids up to"):
        export(run, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    (tokenizer,) = run.glob("checkpoints/*/tokenizer")
    shutil.rmtree(tokenizer)
    write_manifest(tokenizer.parent)
    with pytest.raises(ValueError, match="must come with their tokenizer"):
        export(run, tmp_path / "model")


@pytest.mark.slow
def test_what_lies_in_the_output_folder_is_kept_and_an_export_of_an_export_is_alike(
    exported, tmp_path
) -> None:
    source, output = exported("untied"), tmp_path / "model"
    config = neobert.load(source).config
    assert (config.rope_theta, config.tie_word_embeddings) == (500.0, False)
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"--overwrite \(in Python overwrite=True\)"):
        export(source, output)
    command = [str(source), "--output", str(output), "--format", "neobert"]
    assert main(command) == 1
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "model.old-1/mine.txt").read_text() == "mine"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "training_config.yaml"):
        assert (output / name).read_text() == (source / name).read_text()
    first, second = (load_file(path / "model.safetensors") for path in (source, output))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(FileExistsError, match="is a file"):
        export(source, output / "README.md")


@pytest.mark.slow
def test_other_code_in_a_folder_runs_only_when_it_is_trusted(exported, tmp_path, caplog) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported("default"), folder)
    with (folder / "modeling_neobert.py").open("a") as file:
        file.write(f"\nopen({str(tmp_path / 'was-run')!r}, 'w').close()\n")
    assert main(["--check", str(folder)]) == 2
    assert not (tmp_path / "was-run").exists()
    assert main(["--check", str(folder), "--trust-remote-code"]) == 0
    assert (tmp_path / "was-run").exists()
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "someone/else--modeling_neobert.NeoBERT"
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(exported("default") / "modeling_neobert.py", folder)
    assert main(["--check", str(folder)]) == 2


def add_to(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        known = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        (folder / name).write_text(json.dumps({**known, **values}))

    return change


def link_a_folder(folder: Path) -> None:
    (folder / "0_Transformer").symlink_to(folder.parent)


OTHER_CODE: dict[str, Callable[[Path], object]] = {
    "other.py": lambda folder: (folder / "other.py").write_text(""),
    "tokenizer_config.json": add_to(
        "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "/tmp/x--other.Tokenizer"]}
    ),
    "config.json": add_to("config.json", custom_pipelines={"fill-mask": {"impl": "x--other.Fill"}}),
    "modules.json": lambda folder: (folder / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "other.Module"}]'
    ),
    "adapter_config.json": add_to("adapter_config.json", base_model_name_or_path="/tmp/x"),
    "0_Transformer": link_a_folder,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_CODE)
def test_code_is_not_smuggled_in_beside_our_own(exported, tmp_path, name) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported("encoder"), folder)
    check_code(folder, trust_remote_code=False)
    OTHER_CODE[name](folder)
    with pytest.raises(PretrainedError, match=rf"code that is not this package's .*\({name}\)"):
        check_code(folder, trust_remote_code=False)
    check_code(folder, trust_remote_code=True)


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def change_tokenizer(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


Changes = list[Callable[[Path], None]]
LIES: list[tuple[Changes, dict[str, str]]] = [
    (
        [lambda folder: change_config(folder, rope_theta=9000.0), change_tokenizer],
        {"outputs": "they differ by", "tokenizer": "other ids than in training"},
    ),
    (
        [lambda folder: change_config(folder, tie_word_embeddings=False)],
        {"weights": "decoder.weight"},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "expected"), LIES)
def test_a_folder_that_is_not_what_was_trained_fails(exported, tmp_path, changes, expected) -> None:
    original, folder = exported("default"), tmp_path / "model"
    shutil.copytree(original, folder)
    for change in changes:
        change(folder)
    with pytest.raises(ExportError) as error:
        run_checks(folder, read_source(original))
    failed = {finding.name: finding.detail for finding in error.value.findings if not finding.ok}
    for check, message in expected.items():
        assert message in failed[check]


def test_a_wrong_command_line_says_what_to_give(capsys) -> None:
    for wrong, message in [
        ([], "RUN_OR_CHECKPOINT"),
        (["run"], "--output DIR"),
        (["run", "--output", "x", "--check", "y"], "either"),
    ]:
        with pytest.raises(SystemExit) as error:
            main(wrong)
        assert error.value.code == 2
        assert message in capsys.readouterr().err


def test_the_class_names_of_the_data_are_exported(make_run, tmp_path) -> None:
    from neobert.export.write import write_folder

    source = read_source(make_run("glue", names=("no", "perhaps", "yes")))
    (tmp_path / "model").mkdir()
    write_folder(source, tmp_path / "model", "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "perhaps", "2": "yes"}
    assert config["label2id"] == {"no": 0, "perhaps": 1, "yes": 2}
    again = read_source(tmp_path / "model")
    assert again.labels == ["no", "perhaps", "yes"]


def test_the_reference_s_modeling_file_finds_its_length(make_run) -> None:
    from neobert.export.convert import config_json

    values = config_json(read_source(make_run(rope=False)))
    assert values["max_length"] == values["max_position_embeddings"] == 64


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("scaling", [{}, LINEAR])
def test_a_tokenizer_without_trust_reads_the_configuration_quietly(make_run, scaling) -> None:
    from neobert.export.convert import config_json

    values = config_json(read_source(make_run(rope_scaling=scaling)))
    assert values.get("rope_scaling", {}) == scaling
    saved = NeoBERTConfig(**values).to_dict()
    assert saved.get("rope_scaling", {}) == scaling
    if not scaling:  # transformers 5 warns of the key
        transformers.PretrainedConfig.from_dict(values)
        transformers.PretrainedConfig.from_dict(saved)


def test_an_embedding_model_brings_its_pooling_and_a_classifier_its_labels(make_run) -> None:
    from neobert.export.convert import config_json

    values = config_json(read_source(make_run("glue", labels=4)))
    assert values["architectures"] == ["NeoBERTForSequenceClassification"]
    assert len(values["id2label"]) == 4
    assert values["problem_type"] == "single_label_classification"
    source = read_source(make_run("contrastive"))
    assert config_json(source)["architectures"] == ["NeoBERT"]
    same = open_weights(source.folder).encoder().state_dict()
    assert all(torch.equal(same[name], value) for name, value in source.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["native", "neobert"])
def test_onnx_files_are_written_and_checked(make_run, tmp_path, format_) -> None:
    from neobert.export import onnx_files

    runtime = pytest.importorskip("onnxruntime")
    run = make_run("contrastive", **PREFIXED) if format_ == "native" else make_run()
    findings = export(run, tmp_path / "model", format_=format_, onnx="int8")
    found = {finding.name: finding.detail for finding in findings}["onnx"]
    assert re.search(r"model\.onnx differs by .*vnni\.onnx has the mean cosine (0\.99|1\.0)", found)
    card = (tmp_path / "model/README.md").read_text()
    for name in (onnx_files.FP32, onnx_files.INT8):
        assert name in card
        session = runtime.InferenceSession(tmp_path / "model" / name)
        assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask"]
        assert session.get_inputs()[0].shape == ["batch", "sequence"]
    expected = "last_hidden_state" if format_ == "native" else "logits"
    assert [one.name for one in session.get_outputs()] == [expected]


def test_int8_leaves_out_what_it_would_damage(make_run, tmp_path, monkeypatch, caplog) -> None:
    onnx = pytest.importorskip("onnx")
    from neobert.export import onnx_files
    from neobert.export.write import write_folder

    source = read_source(make_run("contrastive", hidden_size=64))
    with torch.no_grad():  # an outlier among its inputs makes uint8 by tensor useless
        block = source.encoder.transformer_encoder[1]
        block.ffn_norm.weight.fill_(1.0)
        block.ffn_norm.weight[3] = 3000.0
        block.ffn.w1.weight[:, 3] = 0
        block.ffn.w2.weight[:, 3] = 0
        block.ffn.w3.weight.mul_(10)
    (tmp_path / "model").mkdir()
    write_folder(source, tmp_path / "model", "model")
    with caplog.at_level("INFO"):
        onnx_files.write_onnx(source, tmp_path / "model", None, "int8")
    assert re.search(r"int8: mean cosine to fp32 0\.99\d+; in fp32: .*\.1\.ffn\.w[12]", caplog.text)
    operators = [
        node.op_type for node in onnx.load(tmp_path / "model" / onnx_files.INT8).graph.node
    ]
    assert operators.count("MatMulInteger") + operators.count("DynamicQuantizeLinear") > 4
    monkeypatch.setattr(onnx_files, "TARGET", 1.1)
    (tmp_path / "again").mkdir()
    write_folder(source, tmp_path / "again", "again")
    with pytest.raises(ConfigError, match="--onnx int8: the mean cosine to the fp32 outputs"):
        onnx_files.write_onnx(source, tmp_path / "again", None, "int8")


@pytest.mark.slow
def test_without_vnni_weights_have_seven_bits(make_run, tmp_path, monkeypatch) -> None:
    onnx = pytest.importorskip("onnx")
    from neobert.export import onnx_files

    monkeypatch.setattr(onnx_files, "cpu_has_vnni", lambda: False)
    export(make_run(), tmp_path / "model", onnx="int8")
    graph = onnx.load(tmp_path / "model" / onnx_files.INT8).graph
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and tensor.name.endswith("_quantized")
    ]
    assert weights
    assert max(abs(weight.astype(int)).max() for weight in weights) <= 64


def test_without_its_packages_onnx_says_what_to_install(make_run, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'neobert\[onnx\]'"):
        export(make_run(), tmp_path / "model", onnx="fp32")
    assert not list(tmp_path.iterdir())
