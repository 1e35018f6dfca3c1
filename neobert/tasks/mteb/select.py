"""From ``mteb_task_type`` to tasks: families, benchmarks, names, and ``local``."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import get_args

import mteb
from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskType
from mteb.benchmarks import Benchmark
from mteb.get_tasks import TASK_LIST

from neobert.config.mteb import LocalTask
from neobert.errors import ConfigError
from neobert.tasks.mteb.factbook import factbook_tasks
from neobert.tasks.mteb.local import local_task

ENGLISH = "MTEB(eng, v1)"
"""What the families are taken from: 56 English tasks, the reference's 67 if CQADupstack's twelve
parts are counted."""

FAMILIES = {
    "classification": ("Classification",),
    "clustering": ("Clustering",),
    "pair_classification": ("PairClassification",),
    "reranking": ("Reranking",),
    "retrieval": ("Retrieval",),
    "sts": ("STS", "Summarization"),
    "all": None,
}
"""``mteb_task_type`` -> types of mteb; ``None``: all of :data:`ENGLISH`."""

COMMA = re.compile(r",(?![^(]*\))")
"""A comma outside parentheses: benchmarks have some inside."""


def select_tasks(
    selection: str, local: Sequence[LocalTask]
) -> tuple[list[AbsTask], Benchmark | None]:
    """The tasks that ``mteb_task_type`` names, each once, and the benchmark if it names one.

    Names in any case, separated by commas. Raises ``ConfigError`` with all that are unknown.
    """
    names = [name.strip() for name in COMMA.split(selection) if name.strip()]
    selected: dict[str, AbsTask] = {}
    problems = [] if names else [f"mteb_task_type={selection}: names no task"]
    own = {spec.name.lower(): spec for spec in local}
    for name in names:
        tasks = _tasks_of(name, own)
        if tasks is None:
            problems.append(_unknown(name))
        selected |= {task.metadata.name: task for task in tasks or ()}
    if problems:
        raise ConfigError(*problems)
    return list(selected.values()), find_benchmark(names[0]) if len(names) == 1 else None


def check_prompts(prompts: Mapping[str, str], tasks: Sequence[AbsTask]) -> None:
    """Raise ``ConfigError`` for keys of ``mteb_prompts`` that name nothing."""
    kinds = {"query", "document"}
    own = [task.metadata.name for task in tasks]
    known = {*kinds, *get_args(TaskType), *_task_names(), *own}
    problems = []
    for key in prompts:
        name, dash, kind = key.rpartition("-")
        if key not in known and not (dash and kind in kinds and name in known):
            problems.append(
                f"mteb_prompts.{key}: must be query, document, a type (Retrieval, STS, …) or a "
                "name of a task, the last two perhaps with -query or -document after it"
            )
    if problems:
        raise ConfigError(*problems)


def _tasks_of(name: str, own: Mapping[str, LocalTask]) -> list[AbsTask] | None:
    """What one name stands for; ``None`` if nothing is called so."""
    low = name.lower()
    if low == "local":
        return [local_task(spec) for spec in own.values()] if own else factbook_tasks()
    if low in own:
        return [local_task(own[low])]
    if low in FAMILIES:
        types = FAMILIES[low]
        english = mteb.get_benchmark(ENGLISH).tasks
        return [task for task in english if types is None or task.metadata.type in types]
    if (benchmark := find_benchmark(name)) is not None:
        return list(benchmark.tasks)
    if low.startswith("factbook"):
        return [task for task in factbook_tasks() if task.metadata.name.lower() == low] or None
    return _task_of_mteb(low)


def find_benchmark(name: str) -> Benchmark | None:
    """A benchmark by its name or an alias, in any case; ``all`` is :data:`ENGLISH`."""
    if name.lower() == "all":
        return mteb.get_benchmark(ENGLISH)
    for benchmark in mteb.get_benchmarks():
        if name.lower() in (alias.lower() for alias in (benchmark.name, *benchmark.aliases)):
            return benchmark
    return None


def _task_of_mteb(low: str) -> list[AbsTask] | None:
    """A task by name: in English where :data:`ENGLISH` has it, else as mteb has it."""
    for task in mteb.get_benchmark(ENGLISH).tasks:
        if task.metadata.name.lower() == low:
            return [task]
    names = {task.lower(): task for task in _task_names()}
    return [mteb.get_task(names[low])] if low in names else None


def _task_names() -> list[str]:
    return [task.metadata.name for task in TASK_LIST]


def _unknown(name: str) -> str:
    everything = [
        *FAMILIES,
        "local",
        *_task_names(),
        *(benchmark.name for benchmark in mteb.get_benchmarks()),
    ]
    folded = {name.lower(): name for name in everything}
    near = [folded[match] for match in get_close_matches(name.lower(), folded, n=3, cutoff=0.6)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return (
        f"mteb_task_type={name}: is neither one of {', '.join(FAMILIES)}, local, nor a task or "
        f"benchmark of mteb{hint}"
    )
