"""Runs of question answering: they learn, resume, export, and a pipeline repeats their answers."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from neobert.errors import ConfigError
from neobert.export.__main__ import main as export
from tests.tasks.conftest import Watch
from tests.tasks.question_answering.conftest import Answered, questions, write_splits

TRANSFORMERS_4 = Path(__file__).parents[3] / ".venv-transformers4/bin/python"
PIPELINE = """
import json, sys
from transformers import pipeline
answer = pipeline("question-answering", sys.argv[1], trust_remote_code=True)
found = {}
for line in open(sys.argv[2]):
    row = json.loads(line)
    answers = answer(
        question=row["question"], context=row["context"], top_k=20, max_answer_len=30,
        max_seq_len=32, doc_stride=8,
    )
    found[row["id"]] = answers[0] if isinstance(answers, list) else answers
print(json.dumps(found))
"""


def read(run: Path, kind: str, split: str = "validation") -> dict[str, object]:
    return json.loads((run / f"{kind}_{split}.json").read_text())


def lines(folder: Path) -> list[str]:
    return (folder / "validation.jsonl").read_text().splitlines()


def summary(run: Path) -> dict[str, object]:
    return json.loads((run / "summary.json").read_text())


def test_it_learns_and_reports(answer: Answered, rows_folder: Path) -> None:
    run = answer()
    found = summary(run)
    assert found["after"]["eval/f1"] > 0.9
    assert found["score"] == found["objective"] == found["after"]["eval/f1"]
    rows = [json.loads(line) for line in lines(rows_folder)]
    predictions, best = read(run, "predictions"), read(run, "nbest")
    assert list(predictions) == [row["id"] for row in rows]
    right = [row["answers"]["text"] == [predictions[row["id"]]] for row in rows]
    assert sum(right) / len(right) == pytest.approx(found["after"]["eval/exact_match"])
    for row in rows:
        for one in best[row["id"]]:
            assert row["context"][one["start"] : one["end"]] == one["text"]


def test_questions_without_answers(answer: Answered, tmp_path: Path) -> None:
    folder = write_splits(
        tmp_path / "v2",
        train=questions(200, 0, unanswerable=0.4),
        validation=questions(30, 1, unanswerable=0.4),
        test=questions(10, 2, unanswerable=0.4),
    )
    run = answer(f"dataset.path={folder}")
    after, predictions = summary(run)["after"], read(run, "predictions")
    assert after["eval/f1_unanswerable"] > 0.8
    assert after["eval/f1_answerable"] > 0.8
    odds, threshold = read(run, "null_odds"), after["eval/null_score_threshold"]
    assert {name for name, text in predictions.items() if not text} == {
        name for name, value in odds.items() if value > threshold
    }
    assert after["eval/null_score_threshold_test"] == threshold
    never = answer(f"dataset.path={folder}", "answers.null_score_threshold=1", folder="never")
    assert all(read(never, "predictions").values())


def test_an_evaluation_set_may_have_no_answer_at_all(answer: Answered, tmp_path: Path) -> None:
    never = questions(4, 1, unanswerable=1)
    folder = write_splits(tmp_path / "v2", train=questions(9, 0), validation=never)
    words = [f"dataset.path={folder}", "trainer.max_steps=1"]
    assert summary(answer(*words))["after"]["eval/f1_unanswerable"] == 1
    with pytest.raises(ConfigError, match="metric_for_best_model=accuracy: the task has loss"):
        answer(*words, "trainer.metric_for_best_model=accuracy")


def test_a_stopped_run_ends_with_the_same_weights(answer: Answered) -> None:
    saving = ("trainer.eval_strategy=epoch", "trainer.save_strategy=epoch")
    saving = (*saving, "trainer.save_total_limit=0")
    whole = answer(*saving)
    first, last = sorted(int(folder.name) for folder in (whole / "checkpoints").iterdir())
    copy = whole.with_name("again")
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "checkpoints" / str(last))
    again = answer(*saving, "trainer.resume_from_checkpoint=latest", folder="again")
    weights = [load_file(run / f"checkpoints/{last}/model.safetensors") for run in (whole, again)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert first < last
    assert read(again, "nbest") == read(whole, "nbest")


def test_without_weights_it_is_refused(answer: Answered) -> None:
    with pytest.raises(ConfigError, match=r"or answers\.allow_random_weights=true"):
        answer("model.init_from=null")


def test_a_model_of_transformers_is_fine_tuned(
    answer: Answered, encoder_folder: Path, tmp_path: Path
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
    run = answer("model.init_from=null", "model.from_hub=true", f"model.name={folder}")
    assert summary(run)["after"]["eval/f1"] > 0.5


@pytest.mark.parametrize("format_", ["native", "neobert"])
def test_an_exported_model_gives_the_answers_of_the_run(
    answer: Answered, rows_folder: Path, tmp_path: Path, format_: str
) -> None:
    run, exported = answer("trainer.save_strategy=epoch"), tmp_path / "exported"
    assert export([str(run), "--output", str(exported), "--format", format_]) == 0
    trust, auto = format_ == "neobert", transformers.AutoModelForQuestionAnswering
    model = auto.from_pretrained(exported, trust_remote_code=trust).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported, trust_remote_code=trust)
    rows = [json.loads(line) for line in lines(rows_folder)]
    best = read(run, "nbest")
    for row in rows[:15]:  # one window each
        inputs = tokenizer(row["question"], row["context"], return_tensors="pt")
        with torch.no_grad():
            output = model(inputs["input_ids"], attention_mask=inputs["attention_mask"])
        start, last = int(output.start_logits.argmax()), int(output.end_logits.argmax())
        offsets = tokenizer(row["question"], row["context"], return_offsets_mapping=True)
        span = [offsets["offset_mapping"][start][0], offsets["offset_mapping"][last][1]]
        assert span == [best[row["id"]][0][key] for key in ("start", "end")]
    if format_ == "native" or not TRANSFORMERS_4.exists():
        return
    command = [str(TRANSFORMERS_4), "-W", "ignore", "-c", PIPELINE, str(exported)]
    command.append(str(rows_folder / "validation.jsonl"))
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    for name, one in json.loads(found.stdout).items():
        mine = best[name][0]
        assert (one["answer"], one["start"]) == (mine["text"], mine["start"])
        assert one["score"] == pytest.approx(mine["score"], rel=1e-3)


@pytest.mark.parametrize("settings", [(), ("trainer.gradient_accumulation_steps=2",)])
def test_a_steady_step_reads_nothing_back(
    answer: Answered, watch: Watch, settings: tuple[str, ...]
) -> None:
    quiet = ("trainer.logging_steps=100", "trainer.eval_strategy=no", "trainer.save_strategy=no")
    steps = ("trainer.max_steps=10", "trainer.gradient_clipping=1.0", "trainer.log_grad_norm=true")
    answer(*quiet, *steps, *settings)
    assert watch.reads.places == []
