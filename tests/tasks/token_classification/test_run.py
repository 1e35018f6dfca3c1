"""Runs of token classification: they learn, resume, export, and a pipeline repeats their tags."""

import json
import shutil
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file

from neobert.errors import ConfigError
from neobert.export.__main__ import main as export
from tests.tasks.conftest import Watch
from tests.tasks.token_classification.conftest import Train

EPOCHS = ("trainer.eval_strategy=epoch",)


def predictions(run: Path, split: str = "validation") -> list[list[list[str]]]:
    blocks = (run / f"predictions_{split}.tsv").read_text().rstrip("\n").split("\n\n")
    return [[line.split("\t") for line in block.splitlines()] for block in blocks]


def test_it_learns_and_reports(tag: Train, rows_folder: Path) -> None:
    run = tag()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["after"]["eval/f1"] > 0.95
    assert summary["score"] == summary["objective"] == summary["after"]["eval/f1"]
    assert summary["after"]["eval/f1_PRO_test"] > 0.9
    assert (summary["model"], summary["task_name"]) == ("tiny", rows_folder.name)
    assert (summary["settings"]["epochs"], summary["data"]["train"]) == (2, 200)
    rows = [
        json.loads(line) for line in (rows_folder / "validation.jsonl").read_text().splitlines()
    ]
    found = predictions(run)
    assert [[word for word, _, _ in row] for row in found] == [row["tokens"] for row in rows]
    assert [[gold for _, gold, _ in row] for row in found] == [row["tags"] for row in rows]
    same = [gold == guess for row in found for _, gold, guess in row]
    assert sum(same) / len(same) == pytest.approx(summary["after"]["eval/accuracy"])
    assert len(predictions(run, "test")) == 20


def test_the_default_keeps_a_checkpoint_to_export(tag: Train) -> None:
    run = tag("trainer.num_train_epochs=3", "trainer.eval_strategy=no")
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert int(checkpoint.name) == json.loads((run / "summary.json").read_text())["steps"]


def test_a_rate_far_below_that_of_the_weights_is_a_warning(
    tag: Train, encoder_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = shutil.copytree(encoder_folder, tmp_path / "source")
    caplog.set_level("WARNING", "neobert")
    for trained_with in (1e-3, 1e-2):
        (source / "config.yaml").write_text(f"optimizer: {{lr: {trained_with}}}\n")
        rate = ("optimizer.lr=5e-5", "trainer.max_steps=1", "trainer.eval_strategy=no")
        tag(f"model.init_from={source}", *rate, folder=f"run-{trained_with}")
    (warning,) = [line for line in caplog.messages if "too low" in line]
    assert warning.startswith(
        "optimizer.lr=5e-05 may be too low: the weights were trained with 0.01"
    )


def test_test_data_without_tags_is_predicted(tag: Train, rows_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(rows_folder, tmp_path / "rows")
    lines = (folder / "test.jsonl").read_text().splitlines()
    words = [json.loads(line)["tokens"] for line in lines]
    (folder / "test.jsonl").write_text("".join(f"{json.dumps({'tokens': row})}\n" for row in words))
    run = tag(f"dataset.path={folder}")
    assert not [
        name for name in json.loads((run / "summary.json").read_text())["after"] if "test" in name
    ]
    found = predictions(run, "test")
    assert [[word for word, _ in row] for row in found] == words
    assert {guess for row in found for _, guess in row} >= {"O", "B-PRO"}


def test_parts_of_speech_have_accuracy_as_their_score(tag: Train, tmp_path: Path) -> None:
    folder = tmp_path / "pos"
    folder.mkdir()
    rows = [{"tokens": ["good", "film"], "tags": ["ADJ", "NOUN"]}] * 20
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    summary = json.loads((tag(f"dataset.path={folder}") / "summary.json").read_text())
    assert summary["score"] == summary["after"]["eval/accuracy"]
    assert "eval/f1" not in summary["after"]


def test_a_stopped_run_ends_with_the_same_weights(tag: Train) -> None:
    saving = (*EPOCHS, "trainer.save_strategy=epoch", "trainer.save_total_limit=0")
    whole = tag(*saving)
    first, last = sorted(int(folder.name) for folder in (whole / "checkpoints").iterdir())
    copy = whole.with_name("again")
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "checkpoints" / str(last))
    again = tag(*saving, "trainer.resume_from_checkpoint=latest", folder="again")
    weights = [load_file(run / f"checkpoints/{last}/model.safetensors") for run in (whole, again)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert first < last
    assert predictions(again) == predictions(whole)


def test_without_weights_it_is_refused_unless_random_ones_are_allowed(
    tag: Train, encoder_folder: Path
) -> None:
    with pytest.raises(ConfigError, match=r"set model\.init_from=RUN_OR_FOLDER"):
        tag("model.init_from=null")
    small = [f"model.{key}=16" for key in ("hidden_size", "intermediate_size")]
    shape = (*small, "model.num_hidden_layers=1", "model.num_attention_heads=2")
    allowed = ("tokens.allow_random_weights=true", f"tokenizer.path={encoder_folder}")
    run = tag("model.init_from=null", *allowed, *shape, "trainer.max_steps=1")
    assert json.loads((run / "summary.json").read_text())["weights"] == {"kind": "random"}


def test_exported_tokenizers_allow_the_length_of_the_run(
    tag: Train, encoder_folder: Path, tmp_path: Path
) -> None:
    saving = ("trainer.save_strategy=steps", "trainer.save_steps=1")
    run = tag("tokens.max_seq_length=100", "trainer.max_steps=1", *saving)
    assert export([str(run), "--output", str(tmp_path / "exported")]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert tokenizer.model_max_length == 100  # the encoder's own is 64
    learned = ("model.rope=false", "model.max_position_embeddings=16")
    random = ("tokens.allow_random_weights=true", f"tokenizer.path={encoder_folder}")
    with pytest.raises(ConfigError, match="max_seq_length=32 is longer than the 16 positions"):
        tag("model.init_from=null", *random, *learned)


def test_a_metric_that_is_not_logged_is_refused_before_training(tag: Train) -> None:
    with pytest.raises(ConfigError, match="metric_for_best_model=f1_X: the task has accuracy, "):
        tag("trainer.metric_for_best_model=f1_X")


def test_a_model_of_transformers_is_fine_tuned(
    tag: Train, encoder_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bert"
    settings = transformers.BertConfig(
        vocab_size=128,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    transformers.BertModel(settings).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(folder)
    run = tag("model.init_from=null", "model.from_hub=true", f"model.name={folder}")
    assert json.loads((run / "summary.json").read_text())["after"]["eval/f1"] > 0.5


@pytest.mark.parametrize("format_", ["native", "neobert"])
def test_a_pipeline_gives_the_tags_of_the_run(tag: Train, tmp_path: Path, format_: str) -> None:
    run = tag("trainer.save_strategy=epoch")
    exported = tmp_path / "exported"
    assert export([str(run), "--output", str(exported), "--format", format_]) == 0
    config = json.loads((exported / "config.json").read_text())
    assert set(config["id2label"].values()) == {"O", "B-PRO", "I-PRO", "B-CON"}
    pipeline = transformers.pipeline(
        "token-classification",
        str(exported),
        trust_remote_code=format_ == "neobert",
        ignore_labels=[],
    )
    for row in predictions(run):
        answers = pipeline(" ".join(word for word, _, _ in row))
        assert [answer["entity"] for answer in answers] == [guess for _, _, guess in row]


@pytest.mark.parametrize("settings", [(), ("trainer.gradient_accumulation_steps=2",)])
def test_a_steady_step_reads_nothing_back(
    tag: Train, watch: Watch, settings: tuple[str, ...]
) -> None:
    quiet = ("trainer.logging_steps=100", "trainer.eval_strategy=no", "trainer.save_strategy=no")
    steps = ("trainer.max_steps=10", "trainer.gradient_clipping=1.0", "trainer.log_grad_norm=true")
    tag(*quiet, *steps, *settings)
    assert watch.reads.places == []
