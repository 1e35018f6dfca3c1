"""Own evaluation tasks, ``mteb_local``: what a YAML says about them, checked.

::

    mteb_local:
      Ours: {type: sts, path: pairs.jsonl, columns: {sentence1: a, sentence2: b, score: gold}}
      STSBenchmark: {path: stsb/}      # a task of mteb, its data from here
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

from neobert.config.checks import Limit, Positive, require
from neobert.config.section import annotations_of, mapping_problems

COLUMNS = {
    "sts": ("sentence1", "sentence2", "score"),
    "pair_classification": ("sentence1", "sentence2", "label"),
    "classification": ("text", "label"),
    "clustering": ("text", "label"),
    "retrieval": ("query", "document"),
}
"""Type of a task -> what its rows must have."""

TYPE = Limit(f"be one of {', '.join(COLUMNS)}; or null for a task of mteb", COLUMNS.__contains__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTask:
    """A task and where its rows are."""

    name: str
    path: str
    """A file (jsonl, parquet, csv, tsv), or a folder with a file for each split; of a retrieval
    task also a folder with ``queries``, ``corpus`` and ``qrels``."""

    type: Annotated[str, TYPE] | None = None
    """A key of :data:`COLUMNS`; ``None``: ``name`` is a task of mteb, which knows its type."""

    columns: dict[str, str]
    """Column of :data:`COLUMNS` -> its name in the file, where that is another."""

    split: str = "test"
    """What is evaluated on; of a classification, ``train`` is trained on besides."""

    max_rows: Positive | None = None
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
    present = {setting: entry for setting, entry in value.items() if entry is not None}
    types = {name: kind for name, kind in annotations_of(LocalTask).items() if name != "name"}
    problems = mapping_problems(key, present, types)
    problems += require("path" in present, f"{key}.path: must name a file or folder")
    columns = present.get("columns")
    if isinstance(columns, dict):
        known = COLUMNS.get(str(present.get("type"))) or dict.fromkeys(chain(*COLUMNS.values()))
        problems += [
            f"{key}.columns.{name}: must be one of {', '.join(known)}"
            for name in columns
            if name not in known
        ]
    return problems
