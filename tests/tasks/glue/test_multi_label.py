"""Several labels a text: read, learned with thresholds of their own, exported."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, List, Value

from neobert.config.glue import GlueConfig
from neobert.config.root import Config
from neobert.data.task_splits import Splits
from neobert.errors import ConfigError
from neobert.export.__main__ import main as export
from neobert.losses.classification import multi_label_loss
from neobert.tasks import run
from neobert.tasks.glue.labels import label_splits
from neobert.tasks.glue.metrics import best_thresholds, compute, has_labels
from neobert.tasks.glue.tasks import GlueTask, task_of
from tests.tasks.glue.conftest import Settings, write_splits

LISTS = GlueTask(texts=("text",), multi_label=True)
COLUMNS = GlueTask(
    texts=("text",),
    labels=("a", "b"),
    multi_label=True,
    label_columns=("a", "b"),
    label_column="a",
    metrics=("micro_f1", "macro_f1", "average_precision"),
)
FILLERS = ["the", "was", "is", "very", "not", "plot"]


def part(**columns: list[object]) -> Dataset:
    count = len(next(iter(columns.values())))
    return Dataset.from_dict({"text": ["words"] * count, **columns})


def splits(train: Dataset, validation: Dataset, **tests: Dataset) -> Splits:
    return Splits("here", train, {"": validation}, tests)


def test_lists_of_names_are_one_column_per_name() -> None:
    train, validation = part(label=[["sea", "air"], [], ["land"]]), part(label=[["sea"]])
    task, found = label_splits(LISTS, splits(train, validation, test=part(other=[1, 2])))
    assert task.labels == ("air", "land", "sea")
    assert found["train"].labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert task.num_labels == 3
    assert np.isnan(found["test"].labels).all()
    assert found["test"].labels.shape == (2, 3)


def test_lists_of_numbers_and_class_labels() -> None:
    task, found = label_splits(LISTS, splits(part(label=[[0, 2], [1]]), part(label=[[2]])))
    assert task.labels == ("0", "1", "2")
    features = {"text": Value("string"), "label": List(ClassLabel(names=["no", "yes"]))}
    rows = Dataset.from_dict({"text": ["x", "y"], "label": [[0], [1, 0]]}, Features(features))
    task, found = label_splits(LISTS, splits(rows, rows))
    assert task.labels == ("no", "yes")
    assert found["train"].labels.tolist() == [[1, 0], [1, 1]]


@pytest.mark.proves("glue.label_columns")
def test_a_column_per_label() -> None:
    config = GlueConfig(
        task_name="m", text_columns=["text"], multi_label=True, label_columns=["a", "b"]
    )
    assert Config(glue=config).problems() == []
    task = task_of(config, "local", None)
    train = part(a=[0, 1, 1], b=[True, False, True])
    task, found = label_splits(task, splits(train, part(a=[1], b=[0])))
    assert task.labels == ("a", "b")
    assert found["train"].labels.tolist() == [[0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("task", "train", "said"),
    [
        (LISTS, part(label=[["a"], None, ["b"]]), "a list of 0 to 1 (a, b), but row 1 has None"),
        (LISTS, part(label=["a", "b"]), "label does not hold lists (a); glue.multi_label=true"),
        (LISTS, part(label=[["a"], ["a"]]), "train has one class only"),
        (LISTS, part(label=[[0], [2]]), "no example of 1 of the 3 classes (1)"),
        (LISTS, part(label=[[0], [-1]]), "row 1 has [-1]"),
        (LISTS, part(label=[[], []]), "train has one class only ()"),
        (COLUMNS, part(a=[0, 2], b=[1, 1]), "0 or 1 in the columns a, b, but row 1 has (2, 1)"),
        (COLUMNS, part(a=[0, 1]), "train has no column b"),
        (COLUMNS, part(a=[0, 1], b=[0, 0]), "no example of 1 of the 2 classes (b)"),
    ],
)
def test_wrong_labels_are_one_clear_error(task: GlueTask, train: Dataset, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        label_splits(task, splits(train, train))
    assert said in str(error.value)


def test_an_error_names_the_file_and_the_row() -> None:
    train = part(label=[["a"], ["b"], ["a", "c", None]])
    files = {"train": "data/train.jsonl"}
    with pytest.raises(
        ConfigError, match=r"^data/train.jsonl: .* but row 2 has \['a', 'c', None\]"
    ):
        label_splits(LISTS, Splits("data", train, {"": part(label=[["a"]])}, {}, files))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"multi_label": True, "regression": True}, "exclude each other"),
        ({"label_columns": ["a", "b"]}, "needs glue.multi_label=true"),
        ({"multi_label": True, "label_columns": ["a"]}, "two or more different columns"),
        ({"multi_label": True, "metrics": ["accuracy"]}, "glue.metrics=accuracy"),
        ({"metrics": ["micro_f1"]}, "glue.metrics=micro_f1"),
    ],
)
def test_settings_that_contradict_each_other(wrong: dict[str, object], said: str) -> None:
    config = GlueConfig(task_name="m", text_columns=["text"], **wrong)
    assert said in "\n".join(Config(glue=config).problems())


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (60, 2), generator=generator).float()
    return labels + torch.randn(60, 2, generator=generator), labels


def test_metrics_are_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    scores, labels = draw()
    given = has_labels(scores, None).numpy()
    assert compute(COLUMNS, scores, labels) == {
        "micro_f1": pytest.approx(sklearn.f1_score(labels, given, average="micro")),
        "macro_f1": pytest.approx(sklearn.f1_score(labels, given, average="macro")),
        "average_precision": pytest.approx(
            sklearn.average_precision_score(labels, scores.sigmoid(), average="macro")
        ),
    }


def test_thresholds_have_the_best_f1_of_each_class() -> None:
    scores, labels = draw()
    tuned = compute(COLUMNS, scores, labels, best_thresholds(scores, labels))["macro_f1"]
    steps = torch.linspace(0, 1, 500, dtype=torch.float64)
    best = [
        max(
            compute(COLUMNS, scores, labels, torch.stack([step, step]).where(one, 0.5))["macro_f1"]
            for step in steps
        )
        for one in (torch.tensor([True, False]), torch.tensor([False, True]))
    ]
    untuned = compute(COLUMNS, scores, labels)["macro_f1"]
    assert tuned == pytest.approx(sum(best) - untuned, abs=1e-6)
    assert best_thresholds(scores, labels * torch.tensor([1.0, 0.0]))[1] == 0.5


def test_the_loss_is_that_of_transformers_summed_over_the_documents() -> None:
    scores, labels = draw()
    mean = torch.nn.BCEWithLogitsLoss()(scores, labels)
    assert float(multi_label_loss(scores, labels)) == pytest.approx(60 * float(mean))
    empty = torch.zeros(0, 2, requires_grad=True)
    multi_label_loss(empty, torch.zeros(0, 2)).backward()


def labelled(count: int, seed: int) -> list[dict[str, object]]:
    """The words of a text are its labels, between fillers."""
    generator, rows = random.Random(seed), []
    for _ in range(count):
        labels = [name for name in ("bad", "film", "good") if generator.random() < 0.4]
        words = [*labels, *generator.choices(FILLERS, k=generator.randint(1, 4))]
        generator.shuffle(words)
        rows.append({"text": " ".join(words), "labels": labels})
    return rows


@pytest.mark.proves("glue.multi_label")
def test_a_pipeline_gives_the_labels_of_the_run(
    settings: Settings, encoder_folder: Path, tmp_path: Path
) -> None:
    splits = {"train": labelled(240, 0), "validation": labelled(20, 1), "test": labelled(20, 2)}
    write_splits(tmp_path / "data", **splits)
    own = ["glue.task_name=own", "glue.text_columns=[text]", "glue.label_column=labels"]
    start = ["glue.multi_label=true", f"glue.pretrained_model_path={encoder_folder}"]
    saving = ["glue.classifier_activation=gelu", "trainer.save_strategy=best"]
    longer = ["optimizer.lr=1e-2", "trainer.num_train_epochs=5"]
    score = run(settings(*own, *start, *saving, *longer, "trainer.load_best_model_at_end=true"))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert score == summary["after"]["eval/micro_f1"] > 0.9
    assert list(summary["thresholds"]) == ["bad", "film", "good"]
    assert summary["after"]["eval/score_test"] == summary["after"]["eval/micro_f1_test"] > 0.8
    with (tmp_path / "run/predictions_validation.tsv").open(newline="") as file:
        predictions = list(csv.DictReader(file, delimiter="\t"))
    for format_ in ("native", "neobert"):
        folder = tmp_path / format_
        assert export([str(tmp_path / "run"), "--output", str(folder), "--format", format_]) == 0
        trust = format_ == "neobert"
        pipeline = transformers.pipeline(
            "text-classification", str(folder), top_k=None, trust_remote_code=trust
        )
        assert pipeline.model.config.problem_type == "multi_label_classification"
        answers = pipeline([row["text"] for row in labelled(20, 1)])
        for answer, prediction in zip(answers, predictions, strict=True):
            found = {one["label"]: one["score"] for one in answer}
            for name, value in found.items():
                assert value == pytest.approx(float(prediction[f"p({name})"]), abs=2e-6)
            least = summary["thresholds"]
            given = [name for name in least if found[name] >= least[name]]
            assert prediction["prediction"] == ",".join(given)
