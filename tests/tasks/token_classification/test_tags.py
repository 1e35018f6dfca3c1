"""Rows that do not fit are one line each, with file, row and key."""

import re
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value

from neobert.errors import ConfigError
from tests.tasks.token_classification.conftest import Train, tagged, write_splits

GOOD = tagged(30, 0)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "train.jsonl, row 30: 2 tokens and 1 tags"),
        ({"tokens": None, "tags": ["O"]}, "train.jsonl, row 30: tokens holds nothing, not a list"),
        (
            {"tokens": ["a", None], "tags": ["O", "O"]},
            "row 30: tokens has null at place 1",
        ),
        ({"tokens": [], "tags": []}, "train.jsonl, row 30: has no words"),
    ],
)
def test_a_row_that_does_not_fit(
    tag: Train, tmp_path: Path, row: dict[str, object], problem: str
) -> None:
    folder = write_splits(tmp_path / "rows", train=[*GOOD, row], validation=GOOD[:8])
    with pytest.raises(ConfigError, match=re.escape(problem)) as error:
        tag(f"dataset.path={folder}")
    assert "tokens.bad_rows=skip" in error.value.problems[-1]
    run = tag(f"dataset.path={folder}", "tokens.bad_rows=skip", "trainer.max_steps=1")
    assert (run / "summary.json").exists()


def test_an_unknown_tag_in_evaluation(tag: Train, tmp_path: Path) -> None:
    other = [{"tokens": ["a"], "tags": ["B-NEW"]}]
    folder = write_splits(tmp_path / "rows", train=GOOD, validation=[*GOOD[:3], *other])
    with pytest.raises(ConfigError, match="row 3: the tag B-NEW does not occur") as error:
        tag(f"dataset.path={folder}")
    assert error.value.problems[0].startswith(f"{folder}/validation.jsonl, row 3: ")
    assert "tokens.bad_rows=skip" in error.value.problems[-1]
    run = tag(f"dataset.path={folder}", "tokens.bad_rows=skip", "trainer.max_steps=1")
    assert (run / "predictions_validation.tsv").read_text().count("\n\n") == 2


def test_other_columns_are_named(tag: Train, tmp_path: Path) -> None:
    rows = [{"words": row["tokens"], "ner": row["tags"]} for row in GOOD]
    folder = write_splits(tmp_path / "rows", train=rows, validation=rows[:8])
    with pytest.raises(ConfigError, match="tokens"):
        tag(f"dataset.path={folder}")
    settings = ("tokens.words_column=words", "tokens.tags_column=ner", "trainer.max_steps=1")
    assert (tag(f"dataset.path={folder}", *settings) / "summary.json").exists()


def test_conll_files(tag: Train, tmp_path: Path) -> None:
    folder = tmp_path / "conll"
    folder.mkdir()
    for name, rows in (("train", GOOD), ("dev", GOOD[:8])):
        blocks = (
            "".join(
                f"{word} X Y {label}\n"
                for word, label in zip(row["tokens"], row["tags"], strict=True)
            )
            for row in rows
        )
        (folder / f"{name}.conll").write_text("-DOCSTART- -X- O O\n\n" + "\n".join(blocks))
    lines = tag(f"dataset.path={folder}", "trainer.max_steps=1") / "predictions_validation.tsv"
    words = [line.split("\t")[0] for line in lines.read_text().splitlines() if line]
    assert words == [word for row in GOOD[:8] for word in row["tokens"]]


def test_numbers_with_the_names_of_a_saved_dataset(tag: Train, tmp_path: Path) -> None:
    names = ["O", "B-PRO", "I-PRO", "B-CON"]
    features = Features(
        {"tokens": Sequence(Value("string")), "tags": Sequence(ClassLabel(names=names))}
    )
    rows = [{**row, "tags": [names.index(one) for one in row["tags"]]} for row in GOOD]
    parts = {
        "train": Dataset.from_list(rows, features),
        "validation": Dataset.from_list(rows[:8], features),
    }
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    run = tag(f"dataset.path={tmp_path / 'saved'}", "trainer.max_steps=1")
    gold = [
        line.split("\t")[1]
        for line in (run / "predictions_validation.tsv").read_text().splitlines()
        if line
    ]
    assert gold == [one for row in GOOD[:8] for one in row["tags"]]
