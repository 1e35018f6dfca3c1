"""Labels become numbers, or one error says all that is wrong with them."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from neobert.data.task_splits import Splits
from neobert.errors import ConfigError
from neobert.tasks.glue.labels import label_splits
from neobert.tasks.glue.tasks import DROPPED, TASKS, GlueTask

OWN = GlueTask(texts=("text",))
NUMBERS = GlueTask(texts=("text",), regression=True, metrics=("pearson",))


def part(labels: list[object], text: object = "words") -> Dataset:
    return Dataset.from_dict({"text": [text] * len(labels), "label": labels})


def splits(train: Dataset, validation: Dataset, test: Dataset | None = None) -> Splits:
    return Splits("here", train, {"": validation}, {} if test is None else {"test": test})


def test_names_become_classes_in_their_order() -> None:
    task, found = label_splits(OWN, splits(part(["sea", "land", "sea"]), part(["land"])))
    assert task.labels == ("land", "sea")
    assert found["train"].labels.tolist() == [1, 0, 1]
    assert found["validation"].labels.tolist() == [0]
    assert task.num_labels == 2


def test_numbers_are_classes_from_zero() -> None:
    task, _ = label_splits(OWN, splits(part([0, 2, 1]), part([2])))
    assert task.labels == ("0", "1", "2")


@pytest.mark.parametrize(
    ("values", "names", "numbers"),
    [
        ([1, 5, 3, 2, 4], ("1", "2", "3", "4", "5"), [0, 4, 2, 1, 3]),
        ([3, 7, 3], ("3", "7"), [0, 1, 0]),
        ([2.0, 1.0], ("1", "2"), [1, 0]),
        (["7", "3"], ("3", "7"), [1, 0]),
        ([10, 9], ("9", "10"), [1, 0]),
    ],
)
def test_numbers_from_above_zero_are_names(
    values: list[object], names: tuple[str, ...], numbers: list[int]
) -> None:
    task, found = label_splits(OWN, splits(part(values), part(values[:1])))
    assert task.labels == names
    assert found["train"].labels.tolist() == numbers


def test_a_class_label_names_its_classes() -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    task, found = label_splits(OWN, splits(rows, rows))
    assert task.labels == ("no", "yes")
    assert found["train"].labels.tolist() == [1, 0]


def test_a_regression_has_one_score() -> None:
    task, found = label_splits(NUMBERS, splits(part([0.5, -3.0]), part([2.0])))
    assert task.num_labels == 1
    assert found["train"].labels.tolist() == [0.5, -3.0]


def test_examples_without_agreement_are_dropped_and_classes_mapped() -> None:
    def pairs(labels: list[int]) -> Dataset:
        texts = ["a"] * len(labels)
        return Dataset.from_dict({"premise": texts, "hypothesis": texts, "label": labels})

    _, snli = label_splits(TASKS["snli"], splits(pairs([0, -1, 2, 1]), pairs([-1, 1])))
    assert snli["train"].labels.tolist() == [0, 2, 1]
    assert len(snli["validation"].data) == 1
    _, allnli = label_splits(TASKS["allnli"], splits(pairs([0, 1, 2]), pairs([2])))
    assert allnli["train"].labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(("labels", "known"), [([-1, -1], False), ([1, 0], True)])
def test_a_test_set_may_have_labels_or_none(labels: list[int], known: bool) -> None:
    _, found = label_splits(OWN, splits(part([0, 1]), part([1]), part(labels)))
    assert np.isnan(found["test"].labels).all() == (not known)


def test_a_test_set_with_some_wrong_labels_has_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "neobert")
    _, found = label_splits(OWN, splits(part([0, 1]), part([0]), part([1, 7])))
    assert np.isnan(found["test"].labels).all()
    assert "here, test is predicted, but has no score: labels must be" in caplog.text
    assert "row 1 has 7" in caplog.text


WRONG = [
    # task, train, validation, what is said
    (OWN, part([]), part([0]), "train is empty"),
    (OWN, part([0, 1]), part([]), "validation is empty"),
    (OWN, part([0, 1]).remove_columns("label"), part([0]), "train has no column label"),
    (OWN, part([0, 1]).rename_column("text", "body"), part([0]), "columns are body, label"),
    (OWN, part([0, 1], text=None), part([0]), "train: text is not a string in rows 0, 1"),
    (OWN, part([0, 1], text=3), part([0]), "text is not a string"),
    (OWN, part([0, 1, -1]), part([0]), "row 2 has -1"),
    (OWN, part([0.0, 1.0, float("nan")]), part([0.0]), "row 2 has nan"),
    (OWN, part([0.0, 0.5, 1.0]), part([0.0]), "row 1 has 0.5"),
    (OWN, part(["a", "b", None]), part(["a"]), "row 2 has None"),
    (OWN, part([None, None]), part([None]), "labels must be one of names or whole numbers"),
    (OWN, part([0, 2]), part([2]), "of 1 of the 3 classes (1); a slice"),
    (OWN, part(["a", "b"]), part(["c"]), "(c), which validation has: mend the labels there"),
    (OWN, part([0, 0]), part([0]), "train has one class only"),
    (OWN, part([1, 2, 3]), part([4]), "of the 4 classes (4), which validation has"),
    (OWN, part([1, 2]), part([1.5]), "labels must be one of 1, 2, but row 0 has 1.5"),
    (OWN, part([[0], [1, 2]]), part([[0]]), "label holds lists or objects ([0]); one label"),
    (OWN, part([{"a": 0}, {"a": 1}]), part([{"a": 0}]), "label holds lists or objects"),
    (NUMBERS, part([1.0, float("nan")]), part([1.0]), "labels must be numbers, but row 1 has nan"),
    (NUMBERS, part(["a", "1"]), part([1.0]), "row 0 has 'a'"),
]


@pytest.mark.parametrize(("task", "train", "validation", "said"), WRONG)
def test_wrong_data_is_one_clear_error(
    task: GlueTask, train: Dataset, validation: Dataset, said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        label_splits(task, splits(train, validation))
    assert said in str(error.value)
    assert str(error.value).startswith(("here: ", "here, "))


def test_an_error_names_the_file_and_the_row() -> None:
    train, validation = part(["a", "b"]), part(["a", "b", None], text=3)
    files = {"validation": "data/dev.jsonl"}
    with pytest.raises(ConfigError) as error:
        label_splits(OWN, Splits("data", train, {"": validation}, {}, files))
    assert str(error.value) == "data/dev.jsonl: text is not a string in rows 0, 1, 2"
    validation = part(["a", "b", None])
    with pytest.raises(ConfigError, match=r"^data/dev.jsonl: labels must be .* row 2 has None$"):
        label_splits(OWN, Splits("data", train, {"": validation}, {}, files))


def test_the_row_of_a_label_counts_rows_that_are_dropped() -> None:
    task = GlueTask(texts=("text",), labels=("a", "b"), relabel={-1: DROPPED})
    train = part([0, -1, 1, 7])
    with pytest.raises(ConfigError, match=r"row 3 has 7"):
        label_splits(task, splits(train, part([0, 1])))


def test_a_label_outside_the_tasks_range_is_told() -> None:
    def pairs(labels: list[float]) -> Dataset:
        texts = ["a"] * len(labels)
        return Dataset.from_dict({"sentence1": texts, "sentence2": texts, "label": labels})

    with pytest.raises(ConfigError, match=r"numbers from 0 to 5, but row 1 has 5.5"):
        label_splits(TASKS["stsb"], splits(pairs([1.0, 5.5]), pairs([2.0])))
    words = Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 2]})
    with pytest.raises(ConfigError, match=r"0 to 1 \(negative, positive\), but row 1 has 2"):
        label_splits(TASKS["sst2"], splits(words, words))
