"""Rows of questions, checked: errors are reported with its file, row and key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset

from neobert.config.answers import AnswersConfig
from neobert.console import get_logger
from neobert.errors import ConfigError

log = get_logger(__name__)

SHOWN = 5
EXCERPT = 40

REVISIONS = {
    "rajpurkar/squad": "7b6d24c440a36b6815f21b70d25016731768db1f",
    "rajpurkar/squad_v2": "3ffb306f725f7d2ce8394bc1873b24868140c412",
}
"""Datasets of the hub whose revision is pinned."""


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
    keys = (config.id_column, config.question_column, config.context_column, config.answers_column)
    known = [key for key in keys if key in part.column_names]
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
    _report(problems, config)
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
    stands = context[start : start + len(text)] if start >= 0 else ""
    if stands == text:
        return None
    place = context.find(text)
    where = f"it is at {place}" if place >= 0 else "the context does not have it"
    return f"{_shown(text)} is not at {start}, where {_shown(stands)} stands ({where})"


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:EXCERPT]


def _report(problems: Sequence[str], config: AnswersConfig) -> None:
    if not problems:
        return
    if config.bad_rows == "skip":
        log.warning(
            "answers.bad_rows=skip: %d rows left out, such as: %s", len(problems), problems[0]
        )
        return
    more = len(problems) - SHOWN
    raise ConfigError(
        *problems[:SHOWN],
        *([f"and {more} more such rows"] if more > 0 else []),
        "mend the rows, choose the columns (answers.context_column, answers.question_column, "
        "answers.answers_column, answers.id_column), or leave such rows out with "
        "answers.bad_rows=skip",
    )
