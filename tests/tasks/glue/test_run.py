"""Fine-tuning from the command line's settings to files: it learns, stops, keeps and resumes."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import neobert
from neobert.errors import ConfigError
from neobert.tasks import run
from neobert.training.callbacks.interrupt import Interrupt
from neobert.training.metrics_file import read_metrics
from neobert.training.start import open_weights
from tests.tasks.conftest import Watch
from tests.tasks.glue.conftest import Settings, pairs, sentences, write_rows

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)

EPOCHS = 5


@pytest.fixture
def start(encoder_folder: Path) -> str:
    return f"glue.pretrained_model_path={encoder_folder}"


def summary(folder: Path) -> dict[str, object]:
    return json.loads((folder / "summary.json").read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.usefixtures("sst2")
@pytest.mark.proves("glue.task_name", "pretraining_metadata", "trainer.eval_strategy")
def test_a_run_learns_its_task_and_writes_what_it_found(
    settings: Settings, start: str, tmp_path: Path
) -> None:
    config = settings(start, f"trainer.num_train_epochs={EPOCHS}", "+pretraining_metadata.steps=9")
    score = run(config)
    assert score is not None
    assert score > 0.9  # one word tells the label
    found = summary(tmp_path / "run")
    assert (found["task"], found["task_name"], found["model"]) == ("glue", "sst2", "tiny")
    assert found["score"] == found["objective"] == score
    assert found["pretraining_steps"] == 9
    assert len(found["scores_by_step"]) == EPOCHS  # an evaluation after each epoch
    evaluated = rows_of(tmp_path / "run/predictions_validation.tsv")
    right = [row["label"] == row["prediction"] for row in evaluated]
    assert len(right) == 40
    assert sum(right) / 40 == pytest.approx(score)
    submission = rows_of(tmp_path / "run/predictions_test.tsv")
    assert [row["index"] for row in submission] == [str(number) for number in range(10)]
    assert {row["prediction"] for row in submission} <= {"0", "1"}


def test_a_regression_of_ones_own_needs_one_yaml(
    settings: Settings, start: str, tmp_path: Path
) -> None:
    renamed = {"sentence1": "left", "sentence2": "right", "label": "closeness"}

    def own(count: int, seed: int) -> list[dict[str, object]]:
        return [
            {renamed.get(key, key): value for key, value in row.items()}
            for row in pairs(count, seed)
        ]

    write_rows(tmp_path / "mine/train.jsonl", own(64, 0))
    write_rows(tmp_path / "mine/validation.jsonl", own(20, 9))
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"task: glue\ndataset: {{path: {tmp_path / 'mine'}}}\n"
        "glue: {task_name: close, text_columns: [left, right], label_column: closeness, "
        "regression: true, metrics: [pearson]}\n"
        "trainer: {num_train_epochs: 2, max_steps: -1, eval_strategy: epoch, save_strategy: 'no'}\n"
    )
    words = [f"config_path={file}", f"dataset.path={tmp_path / 'mine'}", "glue.task_name=close"]
    score = run(settings(start, *words))
    found = summary(tmp_path / "run")
    assert list(found["after"]) == ["eval/pearson", "eval/loss", "eval/score"]
    assert score == found["after"]["eval/pearson"]
    rows = rows_of(tmp_path / "run/predictions_validation.tsv")
    assert {row["label"] for row in rows} <= {"1.000", "4.000"}


@pytest.mark.usefixtures("sst2")
@pytest.mark.proves(
    "trainer.load_best_model_at_end",
    "trainer.save_strategy",
    "trainer.save_total_limit",
    "trainer.greater_is_better",
)
def test_a_run_ends_with_its_best_model(settings: Settings, start: str, tmp_path: Path) -> None:
    score = run(
        settings(
            start,
            "trainer.num_train_epochs=4",
            "trainer.save_strategy=best",
            "trainer.save_total_limit=1",
            "trainer.load_best_model_at_end=true",
        )
    )
    found = summary(tmp_path / "run")
    by_step = {int(step): value for step, value in found["scores_by_step"].items()}
    assert score == max(by_step.values())
    best = found["best"]["step"]
    assert by_step[best] == score
    assert found["score_step"] == best
    assert (tmp_path / f"run/checkpoints/{best}/model.safetensors").is_file()
    model = open_weights(tmp_path / f"run/checkpoints/{best}").classifier()
    assert model.classifier.out_features == 2


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [("no", []), ("epoch", ["12", "18", "6"]), ("steps", ["10", "15", "18", "5"])],
)
@pytest.mark.usefixtures("sst2")
@pytest.mark.proves("trainer.save_strategy", "trainer.save_steps", "trainer.save_model")
def test_a_run_saves_when_it_is_told(
    settings: Settings, start: str, tmp_path: Path, strategy: str, kept: list[str]
) -> None:
    words = ["trainer.num_train_epochs=3", "trainer.save_steps=5", "trainer.save_total_limit=0"]
    run(settings(start, *words, f"trainer.save_strategy={strategy}"))
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoints/*")) == kept


@pytest.mark.usefixtures("sst2")
@pytest.mark.proves("trainer.early_stopping")
def test_a_score_of_zero_improves_on_nothing_and_two_misses_stop(
    settings: Settings, start: str, tmp_path: Path
) -> None:
    rows = [{**row, "sentence": row["sentence"]} for row in sentences(40, seed=5)]
    write_rows(tmp_path / "data/cola/validation.jsonl", rows)
    write_rows(tmp_path / "data/cola/train.jsonl", sentences(32))
    words = ["glue.task_name=cola", "optimizer.lr=1e-12", "trainer.num_train_epochs=9"]
    run(settings(start, *words, "trainer.early_stopping=2"))
    found = summary(tmp_path / "run")
    # The first evaluation is the best, whatever its sign; then two without a better one.
    assert len(found["scores_by_step"]) == 3
    assert found["best"]["step"] == 2
    assert found["best"]["value"] == found["scores_by_step"]["2"]


@pytest.mark.usefixtures("sst2")
@pytest.mark.proves("trainer.eval_steps")
def test_evaluation_by_steps_happens_in_every_epoch_at_least(
    settings: Settings, start: str, tmp_path: Path
) -> None:
    for every, expected in ((4, ["4", "8", "12"]), (10_000, ["6", "12"])):
        words = ["trainer.num_train_epochs=2", f"trainer.eval_steps={every}"]
        run(settings(start, *words, "trainer.eval_strategy=steps"))
        assert list(summary(tmp_path / "run")["scores_by_step"]) == expected


def test_a_test_set_with_labels_is_scored(settings: Settings, start: str, sst2: Path) -> None:
    write_rows(sst2 / "sst2/test.jsonl", sentences(30, seed=6))
    run(settings(start, "trainer.num_train_epochs=1", "trainer.save_strategy=epoch"))
    folder = sst2.parent / "run"
    after = summary(folder)["after"]
    predicted = [int(row["prediction"]) for row in rows_of(folder / "predictions_test.tsv")]
    right = [row["label"] == label for row, label in zip(sentences(30, 6), predicted, strict=True)]
    assert after["eval/accuracy_test"] == after["eval/score_test"] == pytest.approx(sum(right) / 30)
    assert after["eval/loss_test"] > 0
    assert float(read_metrics(folder / "metrics.csv")[-1]["eval/score_test"]) == pytest.approx(
        after["eval/score_test"]
    )
    assert summary(folder)["score"] == after["eval/score"]
    write_rows(sst2 / "sst2/test.jsonl", sentences(10, seed=7))  # scored without training
    metrics = neobert.evaluate(folder)
    assert metrics["eval/score"] == pytest.approx(after["eval/score"])
    assert metrics["eval/loss_test"] != after["eval/loss_test"]
    whole = neobert.evaluate(folder, ["dataset.eval_split=test"])
    assert whole["eval/accuracy"] == pytest.approx(metrics["eval/accuracy_test"])


@pytest.mark.usefixtures("sst2")
def test_without_evaluation_there_is_no_score(
    settings: Settings, start: str, tmp_path: Path
) -> None:
    assert run(settings(start, "trainer.eval_strategy=no", "trainer.max_steps=2")) is None
    assert (tmp_path / "run/predictions_test.tsv").is_file()


@pytest.mark.usefixtures("sst2")
@pytest.mark.proves("trainer.overwrite_output_dir", "trainer.output_dir")
def test_nothing_of_an_earlier_run_is_deleted(
    settings: Settings, start: str, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        run(settings(start, "trainer.max_steps=1", "trainer.overwrite_output_dir=false"))
    run(settings(start, "trainer.max_steps=1"))
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("sst2")
@pytest.mark.proves("trainer.resume_from_checkpoint")
@pytest.mark.parametrize("kind", ["encoder", "random"])
def test_a_resumed_run_ends_with_the_same_weights_though_its_source_is_gone(
    settings: Settings,
    encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    source = shutil.copytree(encoder_folder, tmp_path / "source")
    words = ["trainer.num_train_epochs=2", "trainer.save_strategy=steps"]
    words += ["trainer.save_steps=5", "glue.classifier_dropout=0.3"]
    if kind == "encoder":
        words.append(f"glue.pretrained_model_path={source}")
    else:
        words += ["glue.allow_random_weights=true", f"tokenizer.path={source}"]
        words += ["model=neobert_tiny", "model.hidden_size=32", "model.num_attention_heads=2"]
    whole = settings(*words, f"trainer.output_dir={tmp_path / 'whole'}")
    expected = run(whole)

    from neobert.training.callbacks.interrupt import Interrupted

    monkeypatch.setattr(Interrupt, "agreed", _after(7))
    with pytest.raises(Interrupted):
        run(settings(*words))
    monkeypatch.undo()
    shutil.rmtree(source)
    score = run(settings(*words, "trainer.resume_from_checkpoint=latest"))
    assert score == expected
    assert read_metrics(tmp_path / "run/metrics.csv")[-1]["step"] == "12"
    ours, theirs = (
        open_weights(tmp_path / f"{name}/checkpoints/12").classifier().state_dict()
        for name in ("run", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    resumed, uninterrupted = summary(tmp_path / "run"), summary(tmp_path / "whole")
    for key in ("weights", "model", "score", "derived"):
        assert resumed[key] == uninterrupted[key]
    assert resumed["weights"]["kind"] == kind


@pytest.mark.usefixtures("sst2")
def test_a_run_of_other_data_is_not_resumed(settings: Settings, start: str) -> None:
    words = [start, "trainer.num_train_epochs=1", "trainer.save_strategy=epoch"]
    run(settings(*words))
    others = {
        "dataset.train_split": "'train[:50]'",
        "glue.classifier_dropout": "0.5",
        "glue.classifier_activation": "gelu",
        "glue.classifier_pooling": "avg",
    }
    changes = [f"{key}={value}" for key, value in others.items()]
    with pytest.raises(ConfigError) as error:
        run(settings(*words, "trainer.resume_from_checkpoint=latest", *changes))
    for key in others:
        assert f"{key} differs from the checkpoint's" in str(error.value)


@pytest.mark.proves("glue.transfer_from_task", "glue.transfer_dir")
def test_a_task_starts_from_the_run_of_its_source(
    settings: Settings, start: str, tmp_path: Path
) -> None:
    nli = [{**row, "label": 0 if row["label"] == 4.0 else 1} for row in pairs(64)]
    nli += [{"sentence1": "the end", "sentence2": "not the end", "label": 2}]
    premises = [
        {"premise": row["sentence1"], "hypothesis": row["sentence2"], "label": row["label"]}
        for row in nli
    ]
    for split in ("train", "validation_matched", "validation_mismatched"):
        write_rows(tmp_path / f"data/mnli/{split}.jsonl", premises)
    for split in ("train", "validation"):
        write_rows(tmp_path / f"data/rte/{split}.jsonl", nli[:-1])
    rte = settings(
        "glue.task_name=rte",
        "glue.transfer_from_task=true",
        "optimizer.lr=1e-12",
        "trainer.max_steps=1",
        "trainer.save_strategy=epoch",
        f"trainer.output_dir={tmp_path / 'sweep/1'}",
    )
    with pytest.raises(ConfigError, match=r"no finished run of mnli.*glue.task_name=mnli"):
        run(rte)
    words = ["glue.task_name=mnli", "trainer.num_train_epochs=1", "trainer.save_strategy=best"]
    run(settings(start, *words, f"trainer.output_dir={tmp_path / 'sweep/0'}"))
    assert {"eval/accuracy", "eval/accuracy_mm"} <= set(summary(tmp_path / "sweep/0")["after"])
    other_head = replace(rte, glue=replace(rte.glue, classifier_activation="gelu"))
    with pytest.raises(ConfigError, match=r"so set glue\.classifier_activation=tanh"):
        run(other_head)
    run(rte)
    weights = summary(tmp_path / "sweep/1")["weights"]
    assert (weights["task"], weights["run"]) == ("mnli", str(tmp_path / "sweep/0"))
    source = open_weights(weights["folder"]).classifier().state_dict()
    found = open_weights(tmp_path / "sweep/1/checkpoints/1").classifier().state_dict()
    moved = {
        name
        for name in source
        if not name.startswith("classifier.") and not torch.allclose(found[name], source[name])
    }
    assert moved == set()  # encoder and dense layer are the source's


@pytest.mark.usefixtures("sst2")
def test_weights_and_biases_is_told_model_task_rate_and_seed(
    settings: Settings, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_RUN_GROUP", "sweep-1")
    words = ["wandb.enabled=true", "wandb.mode=offline", f"wandb.dir={tmp_path / 'wandb'}"]
    words += ["seed=3", "trainer.max_steps=1", "+pretraining_metadata.steps=9", "wandb.tags=[mine]"]
    try:
        run(settings(start, *words))
        assert wandb.run is not None
        assert wandb.run.name == "tiny-sst2-lr0.003-seed3"
        assert wandb.run.tags == ("mine", "tiny", "sst2", "lr=0.003", "seed=3")
        assert wandb.run.group == "sweep-1"
        assert wandb.run.config["pretraining_steps"] == 9
    finally:
        wandb.finish()


def _after(step: int) -> Callable[[Interrupt, object], bool]:
    """A signal that comes in this step."""
    return lambda self, trainer: trainer.global_step >= step


@pytest.mark.usefixtures("sst2")
@pytest.mark.parametrize("words", [(), ("trainer.gradient_accumulation_steps=2",)])
def test_a_steady_step_reads_nothing_back(
    settings: Settings, start: str, watch: Watch, words: tuple[str, ...]
) -> None:
    quiet = ("trainer.logging_steps=100", "trainer.eval_strategy=no", "trainer.save_strategy=no")
    steps = ("trainer.max_steps=10", "trainer.gradient_clipping=1.0", "trainer.log_grad_norm=true")
    run(settings(start, *quiet, *steps, *words))
    assert watch.reads.places == []
