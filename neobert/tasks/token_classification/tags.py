"""Rows of words and tags, checked: errors are reported with its file, row and key."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset

from neobert.config.tokens import TokensConfig
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.files import write_atomically

log = get_logger(__name__)

OUTSIDE = "O"
SHOWN = 5


@dataclass(frozen=True, slots=True)
class TaggedRows:
    """The rows of a split."""

    words: list[list[str]]
    tags: list[list[str]]


def read_tagged_rows(part: Dataset, where: str, config: TokensConfig) -> TaggedRows:
    """Words and names of tags of a split called ``where``.

    Raises ``ConfigError`` for rows that do not fit together, unless ``tokens.bad_rows=skip``.
    """
    columns = (config.words_column, config.tags_column)
    names = _class_names(part, config.tags_column)
    table = part.select_columns(list(columns)).with_format("arrow")[:]
    rows, problems = TaggedRows([], []), []
    for number, (words, tags) in enumerate(
        zip(*(table[name].to_pylist() for name in columns), strict=True)
    ):
        problem = _problem(words, tags, columns)
        if problem is not None:
            problems.append(f"{where}, row {number}: {problem}")
            continue
        rows.words.append([str(word) for word in words])
        rows.tags.append([_name(tag, names) for tag in tags])
    _report(problems, config)
    return rows


def tag_names(train: TaggedRows) -> list[str]:
    """The tags that occur, ``O`` first, numbers in their order."""
    names = {tag for tags in train.tags for tag in tags}
    if all(tag.isdecimal() for tag in names):
        return sorted(names, key=int)
    return sorted(names, key=lambda tag: (tag != OUTSIDE, tag))


def tag_numbers(rows: TaggedRows, names: Sequence[str], where: str) -> list[list[int]]:
    """The tags of ``rows`` as numbers of ``names``, which are those of train.

    Raises ``ConfigError`` with each row that has another.
    """
    numbers = {name: number for number, name in enumerate(names)}
    problems = [
        f"{where}, row {row}: the tag {tag!r} does not occur in train, whose tags are "
        f"{', '.join(names)}"
        for row, tags in enumerate(rows.tags)
        for tag in tags
        if tag not in numbers
    ]
    if problems:
        raise ConfigError(*_shortened(problems))
    return [[numbers[tag] for tag in tags] for tags in rows.tags]


def write_tags(
    path: Path,
    words: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
) -> None:
    """A word a line with its tag and the predicted one, a blank line after each row."""
    rows = (
        "".join(f"{word}\t{tag}\t{guess}\n" for word, tag, guess in zip(*row, strict=True))
        for row in zip(words, gold, predicted, strict=True)
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


def _report(problems: list[str], config: TokensConfig) -> None:
    if not problems:
        return
    if config.bad_rows == "skip":
        log.warning(
            "tokens.bad_rows=skip: %d rows left out, such as: %s", len(problems), problems[0]
        )
        return
    raise ConfigError(
        *_shortened(problems),
        "mend the rows, choose the columns (tokens.words_column, tokens.tags_column), or leave "
        "such rows out with tokens.bad_rows=skip",
    )


def _shortened(problems: list[str]) -> list[str]:
    more = len(problems) - SHOWN
    return problems[:SHOWN] + ([f"and {more} more such rows"] if more > 0 else [])


def _class_names(part: Dataset, column: str) -> list[str] | None:
    """Names that a dataset of the hub has for its numbers."""
    feature = part.features.get(column)
    inner = getattr(feature, "feature", None)
    return list(inner.names) if isinstance(inner, ClassLabel) else None


def _name(tag: object, names: list[str] | None) -> str:
    return names[tag] if names is not None and isinstance(tag, int) else str(tag)
