"""Own evaluation tasks, ``mteb_local``: what a YAML says about them, checked.

::

    mteb_local:
      Ours: {type: sts, path: pairs.jsonl, columns: {sentence1: a, sentence2: b, score: gold}}
      STSBenchmark: {path: stsb/}      # a task of mteb, its data from here
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from neobert.config.checks import require

COLUMNS = {
    "sts": ("sentence1", "sentence2", "score"),
    "pair_classification": ("sentence1", "sentence2", "label"),
    "classification": ("text", "label"),
    "clustering": ("text", "label"),
    "retrieval": ("query", "document"),
}
"""Type of a task -> what its rows must have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTask:
    """A task and where its rows are."""

    name: str
    path: str
    """A file (jsonl, parquet, csv, tsv), or a folder with a file for each split; of a retrieval
    task also a folder with ``queries``, ``corpus`` and ``qrels``."""

    type: str | None = None
    """A key of :data:`COLUMNS`; ``None``: ``name`` is a task of mteb, which knows its type."""

    columns: Mapping[str, str]
    """Column of :data:`COLUMNS` -> its name in the file, where that is another."""

    split: str = "test"
    """What is evaluated on; of a classification, ``train`` is trained on besides."""

    max_rows: int | None = None
    """The first so many rows only; ``None``: all."""


def read_local_tasks(values: Mapping[str, object]) -> tuple[list[LocalTask], list[str]]:
    """The tasks of ``mteb_local``, and what is wrong with the others."""
    tasks, problems = [], list[str]()
    for name, value in values.items():
        problems += (task_problems := _problems(name, value))
        if not task_problems:
            assert isinstance(value, Mapping)
            present = {key: setting for key, setting in value.items() if setting is not None}
            tasks.append(LocalTask(name=name, **{"columns": {}, **present}))
    return tasks, problems


def _problems(name: str, value: object) -> list[str]:
    key = f"mteb_local.{name}"
    if not isinstance(value, Mapping):
        return [f"{key}={value}: must be a mapping, such as {{type: sts, path: pairs.jsonl}}"]
    known = [field.name for field in fields(LocalTask) if field.name != "name"]
    problems = [
        f"{key}: unknown key {unknown}; known are {', '.join(known)}"
        for unknown in value
        if unknown not in known
    ]
    problems += require(
        isinstance(value.get("path"), str), f"{key}.path: must name a file or folder"
    )
    kind = value.get("type")
    problems += require(
        kind is None or kind in COLUMNS,
        f"{key}.type={kind}: must be one of {', '.join(COLUMNS)}; or null if {name} is a task of "
        "mteb",
    )
    rows = value.get("max_rows")
    problems += require(
        rows is None or (isinstance(rows, int) and rows >= 1),
        f"{key}.max_rows={rows}: must be an integer of at least 1, or null",
    )
    return problems + _column_problems(key, value.get("columns"), COLUMNS.get(str(kind)))


def _column_problems(key: str, columns: object, needed: tuple[str, ...] | None) -> list[str]:
    if columns is None:
        return []
    if not isinstance(columns, Mapping):
        return [f"{key}.columns={columns}: must be a mapping of names"]
    allowed = needed or tuple({name: None for names in COLUMNS.values() for name in names})
    return [
        f"{key}.columns.{name}: must be one of {', '.join(allowed)}"
        for name in columns
        if name not in allowed
    ]
