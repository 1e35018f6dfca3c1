"""From a column of labels to numbers, with everything that can be wrong with it said at once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, List
from numpy.typing import NDArray

from neobert.console import get_logger
from neobert.data.task_splits import Splits
from neobert.errors import ConfigError
from neobert.tasks.glue.tasks import DROPPED, GlueTask

log = get_logger(__name__)

MOST_CLASSES = 10_000
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Labelled:
    """A split whose labels are numbers: classes from 0, the values of a regression, or 0 and 1 for
    each class.
    """

    name: str
    data: Dataset
    labels: NDArray[np.float64]
    """Shape (rows,), or (rows, classes); NaN where rows of a test split have none."""


def label_splits(task: GlueTask, splits: Splits) -> tuple[GlueTask, dict[str, Labelled]]:
    """``task`` with the names of its classes, which the data may have to tell, and its splits:
    ``train``, ``validation`` with the ends of the metrics' names, then those to predict.

    Raises ``ConfigError`` with all that is wrong with columns and labels.
    """
    parts = {"train": splits.train}
    parts |= {f"validation{end}": part for end, part in splits.validation.items()}
    where = {name: splits.where(name) for name in (*parts, *splits.test)}
    problems = [
        problem
        for name, part in {**parts, **splits.test}.items()
        for problem in _column_problems(task, where[name], part, needs_label=name in parts)
    ]
    _raise(problems)
    if not task.labels and not task.regression:
        task = replace(task, labels=class_names(task, parts.values()))
    labelled = {}
    for name, part in parts.items():
        labelled[name], problem = _labelled(task, name, part)
        problems += [f"{where[name]}: {problem}"] if problem else []
    _raise(problems)
    problems = _class_problems(task, *labelled.values())
    _raise([f"{splits.origin}: {problem}" for problem in problems])
    for name, part in splits.test.items():
        labelled[name] = _maybe_labelled(task, name, part, where[name])
    return task, labelled


def class_names(task: GlueTask, parts: Iterable[Dataset]) -> tuple[str, ...]:
    """The classes that the data has: names in their order, or numbers.

    Numbers from 0 on are those of the classes, of which none may be missing; others, such as 1 to 5
    stars, are names: those that occur.
    """
    values: set[object] = set()
    for part in parts:
        feature = _of_one_label(part, task)
        if isinstance(feature, ClassLabel):
            return tuple(feature.names)
        if task.multi_label:
            lists = column_values(part, task.label_column)
            values |= {label for labels in lists if labels is not None for label in labels}
        else:
            values |= set(part.unique(task.label_column))
    numbers = [value for value in values if isinstance(value, int | float)]
    if not numbers:
        return tuple(sorted(str(value) for value in values if value not in (None, "")))
    whole = sorted({int(value) for value in numbers if float(value).is_integer()})
    if whole and whole[0] > 0:
        return tuple(map(str, whole[:MOST_CLASSES]))
    largest = max(whole, default=0)
    return tuple(str(number) for number in range(min(largest, MOST_CLASSES) + 1))


def column_values(part: Dataset, column: str) -> list[Any]:
    """A column as Python values; ``datasets`` itself would go from row to row."""
    values: list[Any] = part.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return values


def label_lists(task: GlueTask, part: Dataset) -> list[object]:
    """The labels of each row as a list; the row's values where they are no such list."""
    if not task.label_columns:
        return column_values(part, task.label_column)
    rows = zip(*(column_values(part, name) for name in task.label_columns), strict=True)
    return [
        [name for name, value in zip(task.label_columns, row, strict=True) if value]
        if all(value in (0, 1) for value in row)
        else row
        for row in rows
    ]


def _of_one_label(part: Dataset, task: GlueTask) -> object:
    """The feature of a label, in a list or by itself."""
    feature = part.features[task.label_column]
    return feature.feature if isinstance(feature, List) else feature


def _column_problems(task: GlueTask, where: str, part: Dataset, needs_label: bool) -> list[str]:
    labels = task.label_columns or (task.label_column,)
    columns = [*task.texts, *(labels if needs_label else ())]
    missing = [column for column in columns if column not in part.column_names]
    if missing:
        return [
            f"{where} has no column {', '.join(missing)}; its columns are "
            f"{', '.join(part.column_names)}"
        ]
    if len(part) == 0:
        return [f"{where} is empty"]
    problems = []
    for column in task.texts:
        values = column_values(part, column)
        bad = [row for row, text in enumerate(values) if not isinstance(text, str)]
        if bad:
            problems.append(f"{where}: {column} is not a string in {_rows(bad)}")
    return problems + (_form_problems(task, where, part) if needs_label else [])


def _form_problems(task: GlueTask, where: str, part: Dataset) -> list[str]:
    """Lists where one label a text is needed, or the other way round."""
    feature, column = part.features[task.label_column], task.label_column
    first = f"({str(next(iter(column_values(part.take(1), column))))[:40]})"
    if not task.multi_label and isinstance(feature, list | dict | List):
        return [
            f"{where}: {column} holds lists or objects {first}; one label per text is needed, a "
            "name or a number; glue.multi_label=true learns lists of labels"
        ]
    if task.multi_label and not task.label_columns and not isinstance(feature, List):
        return [
            f"{where}: {column} does not hold lists {first}; glue.multi_label=true needs a list of "
            "names or numbers per text, or glue.label_columns with a column of 0 and 1 per label"
        ]
    return []


def _labelled(task: GlueTask, name: str, part: Dataset) -> tuple[Labelled, str | None]:
    """A split with its labels as numbers, and what is wrong with them."""
    labels, values = _read_labels(task, part)
    problem = _illegal(task, values, labels)
    if task.relabel:
        rows = [row for row, value in enumerate(values) if not _is_dropped(task, value)]
        part, labels = part.select(rows), labels[rows]
    return Labelled(name, part, labels), problem


def _maybe_labelled(task: GlueTask, name: str, part: Dataset, where: str) -> Labelled:
    """A test split: labels where all of them are legal, else none (GLUE's have -1)."""
    shape = (len(part), len(task.labels)) if task.multi_label else (len(part),)
    unknown = Labelled(name, part, np.full(shape, np.nan))
    if not {*(task.label_columns or [task.label_column])} <= set(part.column_names):
        return unknown
    labels, values = _read_labels(task, part)
    problem = _illegal(task, values, labels)
    if problem and np.isfinite(labels).any():
        log.warning("%s is predicted, but has no score: %s", where, problem)
    return unknown if problem else Labelled(name, part, labels)


def _read_labels(task: GlueTask, part: Dataset) -> tuple[NDArray[np.float64], list[object]]:
    """The labels of all rows as numbers, NaN where they are not legal, and what the rows hold."""
    if task.multi_label:
        return _multi_hot(task, part), label_lists(task, part)
    values = column_values(part, task.label_column)
    if task.relabel:
        values = [task.relabel.get(value, value) for value in values]
    numbers = np.array(list(map(_numbering(task, part), values)), dtype=np.float64)
    return np.where(_is_legal(task, numbers), numbers, np.nan), values


def _is_dropped(task: GlueTask, value: object) -> bool:
    return bool(task.relabel) and value == DROPPED


def _illegal(task: GlueTask, values: Sequence[object], labels: NDArray[np.float64]) -> str | None:
    """What is wrong with ``values`` of rows: of some, that are not dropped, ``labels`` are NaN."""
    without = np.flatnonzero(np.isnan(labels).reshape(len(labels), -1).any(1)).tolist()
    bad = [row for row in without if not _is_dropped(task, values[row])]
    if not bad:
        return None
    shown = ", ".join(repr(values[row]) for row in bad[:SHOWN])
    have = f"{_rows(bad)} ha{'ve' if len(bad) > 1 else 's'}"
    return f"labels must be {_legal(task)}, but {have} {shown}"


def _multi_hot(task: GlueTask, part: Dataset) -> NDArray[np.float64]:
    """1 for each label of a row, shape (rows, classes); NaN in rows with anything else."""
    number, rows = _numbering(task, part), label_lists(task, part)
    hot = np.zeros((len(rows), len(task.labels)))
    for row, labels in enumerate(rows):
        numbers = np.array(
            [number(label) for label in labels] if isinstance(labels, list) else [-1]
        )
        if _is_legal(task, numbers).all():
            hot[row, numbers.astype(int)] = 1
        else:
            hot[row] = np.nan
    return hot


def _numbering(task: GlueTask, part: Dataset) -> Callable[[object], float]:
    """From a value to its number."""
    is_class = isinstance(_of_one_label(part, task), ClassLabel)
    by_name = {name: float(number) for number, name in enumerate(task.labels) if not is_class}
    # 1 to 5 stars are names too: class 0 is "1".
    only_names = not is_class and task.labels and all(map(str.isdecimal, task.labels))

    def number(value: object) -> float:
        whole = isinstance(value, int | float) and float(value).is_integer()
        name = str(int(value)) if whole else value  # type: ignore[call-overload]
        if isinstance(name, str) and name in by_name:
            return by_name[name]
        if (only_names and whole) or value is None:
            return np.nan
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return np.nan

    return number


def _is_legal(task: GlueTask, numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
    if not task.regression:
        whole = np.isfinite(numbers) & (np.mod(numbers, 1) == 0)
        return whole & (numbers >= 0) & (numbers < len(task.labels))
    low, high = task.label_range or (-np.inf, np.inf)
    return np.isfinite(numbers) & (numbers >= low) & (numbers <= high)


def _legal(task: GlueTask) -> str:
    if task.regression:
        low, high = task.label_range or ("any", "any")
        return "numbers" if task.label_range is None else f"numbers from {low:g} to {high:g}"
    if task.label_columns:
        return f"0 or 1 in the columns {', '.join(task.labels)}"
    names = ", ".join(task.labels[:SHOWN]) or "names or whole numbers"
    more = ", …" if len(task.labels) > SHOWN else ""
    form = "a list of " if task.multi_label else ""
    if not task.labels or (task.labels[0].isdecimal() and task.labels[0] != "0"):
        return f"{form or 'one of '}{names}{more}"
    return f"{form}0 to {len(task.labels) - 1} ({names}{more})"


def _classes_in(task: GlueTask, part: Labelled) -> set[int]:
    """The classes that occur."""
    present = np.flatnonzero(part.labels.any(0)) if task.multi_label else np.unique(part.labels)
    return set(present.astype(int).tolist())


def _class_problems(task: GlueTask, train: Labelled, *others: Labelled) -> list[str]:
    if len(train.labels) == 0 or any(len(part.labels) == 0 for part in others):
        return ["a split has no labelled example"]
    if task.regression:
        return []
    if len(task.labels) < 2:
        return [f"train has one class only ({', '.join(task.labels)}): nothing can be learned"]
    seen = _classes_in(task, train)
    missing = [name for number, name in enumerate(task.labels) if number not in seen]
    if not missing:
        return []
    holders = [
        part.name
        for part in others
        if {task.labels[number] for number in _classes_in(task, part)} & set(missing)
    ]
    cause = (
        f"{' and '.join(holders)} has: mend the labels there, or add examples to train"
        if holders
        else "a slice (dataset.train_split) must keep all, and numbers must have no gap"
    )
    return [
        f"train has no example of {len(missing)} of the {len(task.labels)} classes "
        f"({', '.join(missing[:SHOWN])}){', which ' if holders else '; '}{cause}"
    ]


def _rows(rows: list[int]) -> str:
    shown = ", ".join(str(row) for row in rows[:SHOWN])
    return f"row{'s' if len(rows) > 1 else ''} {shown}{', …' if len(rows) > SHOWN else ''}"


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError(*problems)
