"""The table of tasks agrees with GLUE, with the settings and with itself."""

import pytest

from neobert.config.glue import METRIC_NAMES, TASK_NAMES, GlueConfig
from neobert.config.root import Config
from neobert.tasks.glue.metrics import METRICS, logged_names
from neobert.tasks.glue.tasks import TASKS, task_of

OFFICIAL = [
    # task, columns, classes, what the leaderboard averages
    ("cola", ("sentence",), 2, ("matthews_correlation",)),
    ("sst2", ("sentence",), 2, ("accuracy",)),
    ("mrpc", ("sentence1", "sentence2"), 2, ("accuracy", "f1")),
    ("stsb", ("sentence1", "sentence2"), 0, ("pearson", "spearmanr")),
    ("qqp", ("question1", "question2"), 2, ("accuracy", "f1")),
    ("mnli", ("premise", "hypothesis"), 3, ("accuracy", "accuracy_mm")),
    ("qnli", ("question", "sentence"), 2, ("accuracy",)),
    ("rte", ("sentence1", "sentence2"), 2, ("accuracy",)),
    ("wnli", ("sentence1", "sentence2"), 2, ("accuracy",)),
]


@pytest.mark.parametrize(("name", "columns", "classes", "score"), OFFICIAL)
def test_a_task_is_as_glue_defines_it(
    name: str, columns: tuple[str, ...], classes: int, score: tuple[str, ...]
) -> None:
    task = TASKS[name]
    assert task.texts == columns
    assert len(task.labels) == classes
    assert task.regression == (classes == 0)
    assert (task.score or task.metrics) == score


@pytest.mark.parametrize(
    ("task", "source"),
    [
        ("mnli", "snli"),
        ("qnli", "mnli"),
        ("wnli", "allnli"),
        ("stsb", "mnli"),
        ("mrpc", "mnli"),
        ("rte", "mnli"),
        ("cola", None),
        ("sst2", None),
    ],
)
def test_a_task_starts_from_its_usual_source(task: str, source: str | None) -> None:
    assert TASKS[task].start_from == source


def test_the_settings_know_the_rows_of_both_tables() -> None:
    assert tuple(TASKS) == TASK_NAMES
    assert tuple(METRICS) == METRIC_NAMES


@pytest.mark.parametrize("name", TASKS)
def test_a_score_is_made_of_metrics_that_are_logged(name: str) -> None:
    task = TASKS[name]
    assert set(task.score or task.metrics) <= set(logged_names(task))
    assert set(task.metrics) <= set(METRICS)


def test_the_label_of_sources_with_more_classes_is_mapped() -> None:
    assert TASKS["allnli"].relabel == {2: 1}
    assert TASKS["snli"].relabel[-1] < 0


@pytest.mark.proves("glue.text_columns", "glue.label_column", "glue.regression", "glue.metrics")
def test_a_task_of_ones_own_needs_no_row() -> None:
    config = GlueConfig(
        task_name="mine",
        text_columns=["title", "body"],
        label_column="stars",
        regression=True,
    )
    task = task_of(config, "org/reviews", None)
    assert Config(glue=config).problems() == []
    assert (task.texts, task.label_column) == (("title", "body"), "stars")
    assert task.metrics == ("pearson", "spearmanr")
    named = GlueConfig(task_name="mine", text_columns=["title"], metrics=["macro_f1"])
    assert task_of(named, "org/reviews", None).metrics == ("macro_f1",)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"task_name": "colla"}, "glue.task_name=colla: must be one of cola, sst2"),
        ({"task_name": ""}, "glue.text_columns"),
        ({"task_name": "cola", "text_columns": ["a"]}, "choose another name"),
        ({"task_name": "mine", "text_columns": ["a", "b", "c"]}, "two for pairs"),
        ({"metrics": ["bleu"], "task_name": "m", "text_columns": ["a"]}, "glue.metrics=bleu"),
        (
            {"transfer_from_task": True, "pretrained_checkpoint_dir": "x", "task_name": "rte"},
            "exclude each other",
        ),
        ({"classifier_dropout": 1.5}, "glue.classifier_dropout=1.5"),
        ({"preprocessing_num_proc": -1}, "glue.preprocessing_num_proc=-1"),
    ],
)
def test_a_wrong_setting_is_told(wrong: dict[str, object], said: str) -> None:
    assert said in "\n".join(Config(glue=GlueConfig(**wrong)).problems())
