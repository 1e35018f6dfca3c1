"""Rows that do not fit are one line each, with file, row and key; SQuAD's own JSON is read."""

import json
from pathlib import Path

import pytest

from neobert.errors import ConfigError
from tests.tasks.question_answering.conftest import Answered, Row, questions, write_splits

GOOD = questions(20, 0)
ROW = {"id": "x", "context": "a good film", "question": "was it good"}


def answers(texts: list[object], starts: list[object]) -> Row:
    return {"answers": {"text": texts, "answer_start": starts}}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            answers(["good"], [3]),
            "answers: 'good' is not at 3, where the context has 'ood ' (it is at 2)",
        ),
        (
            answers(["bad"], [2]),
            "'bad' is not at 2, where the context has 'goo' (the context does not",
        ),
        (answers(["good"], [-9]), "'good' is not at -9, where the context has '' (it is at 2)"),
        (answers(["good", "a"], [2]), "answers has 2 text and 1 answer_start"),
        (answers([""], [2]), "answers has the text ''"),
        (answers(["good"], [None]), "answers has the answer_start nothing, not a whole number"),
        ({"context": None}, "context holds nothing, not a text"),
        ({"question": " "}, "question holds ' ', not a text"),
        ({"id": GOOD[0]["id"]}, "id 'q0-0' is that of an earlier row, too"),
    ],
)
def test_a_row_that_does_not_fit(answer: Answered, tmp_path: Path, row: Row, problem: str) -> None:
    bad = {**ROW, **answers([], []), **row}
    folder = write_splits(tmp_path / "rows", train=[*GOOD, bad], validation=GOOD[:4])
    with pytest.raises(ConfigError) as error:
        answer(f"dataset.path={folder}")
    assert f"{folder}/train.jsonl, row 20: " in error.value.problems[0]
    assert problem in error.value.problems[0]
    assert "answers.bad_rows=skip" in error.value.problems[-1]


def test_bad_rows_are_left_out_and_counted(
    answer: Answered, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {**ROW, **answers(["good"], [3])}
    folder = write_splits(tmp_path / "rows", train=[*GOOD, bad], validation=GOOD[:4])
    settings = (f"dataset.path={folder}", "answers.bad_rows=skip", "trainer.max_steps=1")
    assert (answer(*settings) / "summary.json").exists()
    assert "1 rows left out" in caplog.text


def test_squads_own_json_and_rows_without_names(answer: Answered, tmp_path: Path) -> None:
    paragraphs = [
        {
            "context": row["context"],
            "qas": [
                {
                    "question": row["question"],
                    "id": row["id"],
                    "is_impossible": False,
                    "answers": [
                        {"text": text, "answer_start": start}
                        for text, start in zip(
                            row["answers"]["text"], row["answers"]["answer_start"], strict=True
                        )
                    ],
                }
            ],
        }
        for row in GOOD
    ]
    folder = write_splits(tmp_path / "rows", validation=[{**row, "id": None} for row in GOOD[:4]])
    articles = [{"title": "t", "paragraphs": paragraphs[:9]}, {"paragraphs": paragraphs[9:]}]
    (folder / "train.json").write_text(json.dumps({"version": "1.1", "data": articles}, indent=1))
    run = answer(f"dataset.path={folder}", "trainer.num_train_epochs=1")
    assert json.loads((run / "summary.json").read_text())["derived"]["steps_per_epoch"] == 3
    assert list(json.loads((run / "predictions_validation.json").read_text())) == list("0123")


def test_windows_must_have_room(answer: Answered) -> None:
    with pytest.raises(
        ConfigError, match=r"max_seq_length=19 leaves no new context .* raise it to 20"
    ):
        answer("answers.max_seq_length=19")
