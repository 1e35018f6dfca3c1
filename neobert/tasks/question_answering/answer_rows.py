"""Rows of questions, checked: errors are reported with its file, row and key."""

from collections.abc import Mapping
from dataclasses import dataclass

from datasets import Dataset

from neobert.config.answers import AnswersConfig
from neobert.errors import ConfigError
from neobert.training.documents import report_bad_rows

COLUMNS = ("context_column", "question_column", "answers_column", "id_column")
"""Settings that name a column."""

EXCERPT = 40


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a context."""

    id: str
    text: str
    context: str
    answers: list[tuple[int, str]]
    """Position of the first character and text of each; empty: the context has none."""


def read_questions(part: Dataset, where: str, config: AnswersConfig) -> list[Question]:
    """The questions of a split called ``where``.

    Raises ``ConfigError`` for rows that do not fit together, unless ``answers.bad_rows=skip``.
    """
    columns = [getattr(config, key) for key in COLUMNS]
    known = [column for column in columns if column in part.column_names]
    table = part.select_columns(known).with_format("arrow")[:]
    questions: list[Question] = []
    problems, ids = [], set[str]()
    for number, row in enumerate(table.to_pylist()):
        name = row.get(config.id_column)
        row[config.id_column] = str(number if name is None else name)
        question = _question(row, config)
        if isinstance(question, Question) and question.id in ids:
            question = f"{config.id_column} {question.id!r} is that of an earlier row, too"
        if isinstance(question, str):
            problems.append(f"{where}, row {number}: {question}")
            continue
        ids.add(question.id)
        questions.append(question)
    report_bad_rows(problems, "answers", config.bad_rows, COLUMNS)
    if not questions:
        raise ConfigError(f"{where}: no question is left to read")
    return questions


def _question(row: Mapping[str, object], config: AnswersConfig) -> Question | str:
    """The question of a row, or what is wrong with it."""
    texts = []
    for column in (config.question_column, config.context_column):
        value = row.get(column)
        if not isinstance(value, str) or not value.strip():
            return f"{column} holds {_shown(value)}, not a text"
        texts.append(value)
    answers = _answers(row.get(config.answers_column), config.answers_column)
    if isinstance(answers, str):
        return answers
    question, context = texts
    for start, text in answers:
        if problem := _misplaced(context, start, text):
            return f"{config.answers_column}: {problem}"
    return Question(str(row[config.id_column]), question, context, answers)


def _answers(value: object, column: str) -> list[tuple[int, str]] | str:
    """Positions and texts of SQuAD's two forms, or what is wrong with them."""
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        value = {key: [answer.get(key) for answer in value] for key in ("text", "answer_start")}
    if not isinstance(value, dict):
        return f"{column} holds {_shown(value)}, not texts and their starts"
    texts, starts = value.get("text"), value.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list):
        return f"{column} lacks a list of text or of answer_start: {_shown(value)}"
    if len(texts) != len(starts):
        return f"{column} has {len(texts)} text and {len(starts)} answer_start"
    answers = list(zip(starts, texts, strict=True))
    return next(filter(None, (_unusable(*answer, column) for answer in answers)), answers)


def _unusable(start: object, text: object, column: str) -> str | None:
    if not isinstance(text, str) or not text.strip():
        return f"{column} has the text {_shown(text)}"
    if not isinstance(start, int) or isinstance(start, bool):
        return f"{column} has the answer_start {_shown(start)}, not a whole number"
    return None


def _misplaced(context: str, start: int, text: str) -> str | None:
    excerpt = context[start : start + len(text)] if start >= 0 else ""
    if excerpt == text:
        return None
    place = context.find(text)
    where = f"it is at {place}" if place >= 0 else "the context does not have it"
    return f"{_shown(text)} is not at {start}, where the context has {_shown(excerpt)} ({where})"


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:EXCERPT]
