"""Rows of words and tags, checked: errors are reported with its file, row and key."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset

from neobert.config.tokens import TokensConfig
from neobert.files import write_atomically
from neobert.training.documents import report_bad_rows

OUTSIDE = "O"
COLUMNS = ("words_column", "tags_column")
"""Settings that name a column."""


@dataclass(frozen=True, slots=True)
class TaggedRows:
    """The rows of a split."""

    words: list[list[str]]
    tags: list[list[str]]
    numbers: list[int]
    """Their places in the split as it was read."""

    is_labelled: bool = True
    """Test data may have no column of tags; ``tags`` are ``O`` then."""


def read_tagged_rows(part: Dataset, where: str, config: TokensConfig) -> TaggedRows:
    """Words and names of tags of a split called ``where``.

    Raises ``ConfigError`` for rows that do not fit together, unless ``tokens.bad_rows=skip``.
    """
    columns = (config.words_column, config.tags_column)
    names = _class_names(part, config.tags_column)
    is_labelled = config.tags_column in part.column_names
    known = list(columns) if is_labelled else [config.words_column]
    values = [part.with_format("arrow")[:][name].to_pylist() for name in known]
    rows, problems = TaggedRows([], [], [], is_labelled), []
    for number, (words, *own_tags) in enumerate(zip(*values, strict=True)):
        tags = (
            own_tags[0]
            if is_labelled
            else [OUTSIDE] * len(words if isinstance(words, list) else [])
        )
        problem = _problem(words, tags, columns)
        if problem is not None:
            problems.append(f"{where}, row {number}: {problem}")
            continue
        rows.words.append([str(word) for word in words])
        rows.numbers.append(number)
        rows.tags.append([_name(tag, names) for tag in tags])
    report_bad_rows(problems, "tokens", config.bad_rows, COLUMNS)
    return rows


def tag_names(train: TaggedRows) -> list[str]:
    """The tags that occur, ``O`` first, numbers in their order."""
    names = {tag for tags in train.tags for tag in tags}
    if all(tag.isdecimal() for tag in names):
        return sorted(names, key=int)
    return sorted(names, key=lambda tag: (tag != OUTSIDE, tag))


def with_tags_of_train(
    rows: TaggedRows, names: Sequence[str], where: str, config: TokensConfig
) -> TaggedRows:
    """The rows whose tags are all in ``names``, those of train.

    Raises ``ConfigError`` with the others, unless ``tokens.bad_rows=skip``.
    """
    if not rows.is_labelled:
        return rows
    known, problems, unknown = set(names), [], set[int]()
    for row, tags in enumerate(rows.tags):
        if new := sorted({*tags} - known):
            unknown.add(row)
            problems.append(
                f"{where}, row {rows.numbers[row]}: the tag {', '.join(new)} does not occur in "
                f"train, whose tags are {', '.join(names)}"
            )
    report_bad_rows(problems, "tokens", config.bad_rows, COLUMNS)
    known_rows = [row for row in range(len(rows.tags)) if row not in unknown]
    return TaggedRows(
        [rows.words[row] for row in known_rows],
        [rows.tags[row] for row in known_rows],
        [rows.numbers[row] for row in known_rows],
    )


def write_tags(
    path: Path,
    *columns: Sequence[Sequence[str]],
) -> None:
    """A word a line with its tag, if known, and the predicted one; a blank line after each row.

    ``columns`` are the words, then tags.
    """
    rows = (
        "".join("\t".join(fields) + "\n" for fields in zip(*row, strict=True))
        for row in zip(*columns, strict=True)
    )
    write_atomically(path, "\n".join(rows))


def _problem(words: object, tags: object, columns: tuple[str, str]) -> str | None:
    for name, values in zip(columns, (words, tags), strict=True):
        if not isinstance(values, list):
            kind = "nothing" if values is None else f"{type(values).__name__} {str(values)[:40]!r}"
            return f"{name} holds {kind}, not a list"
    assert isinstance(words, list)
    assert isinstance(tags, list)
    if len(words) != len(tags):
        return f"{len(words)} {columns[0]} and {len(tags)} {columns[1]}"
    for name, values in zip(columns, (words, tags), strict=True):
        if None in values:
            return f"{name} has null at place {values.index(None)}"
    return "has no words" if not words else None


def _class_names(part: Dataset, column: str) -> list[str] | None:
    """Names that a dataset of the hub has for its numbers."""
    feature = part.features.get(column)
    inner = getattr(feature, "feature", None)
    return list(inner.names) if isinstance(inner, ClassLabel) else None


def _name(tag: object, names: list[str] | None) -> str:
    return names[tag] if names is not None and isinstance(tag, int) else str(tag)
