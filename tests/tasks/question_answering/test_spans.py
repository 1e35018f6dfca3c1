"""Windows hold their answers; spans become answers."""

from itertools import pairwise

import numpy as np
import pytest

from neobert.config.answers import AnswersConfig
from neobert.tasks.question_answering.answer_rows import Question
from neobert.tasks.question_answering.spans import WindowSpans, answers_of, spans_of
from neobert.tasks.question_answering.windows import NO_ANSWER, AnswerWindow, WindowTokenizer
from tests.tasks.glue.conftest import make_tokenizer
from tests.tasks.question_answering.conftest import questions


def asked(words: int) -> list[Question]:
    return [
        Question(
            str(row["id"]),
            str(row["question"]),
            str(row["context"]),
            list(zip(row["answers"]["answer_start"], row["answers"]["text"], strict=True)),
        )
        for row in questions(20, 3, words=words)
    ]


def test_windows_overlap_and_hold_the_answer() -> None:
    config = AnswersConfig(max_seq_length=24, stride=4, max_question_length=6)
    cut = WindowTokenizer.of(make_tokenizer(), config, own=True)
    rows = asked(words=60)
    windows = list(cut.windows(rows))
    assert [window.number for window in windows] == list(range(len(windows)))
    assert max(len(window.ids) for window in windows) == 24
    for number, question in enumerate(rows):
        mine = [window for window in windows if window.question == number]
        covered = {place for window in mine for place in range(*_extent(window))}
        spaces = {place for place, letter in enumerate(question.context) if letter == " "}
        assert covered | spaces == set(range(len(question.context)))
        for before, after in pairwise(mine):
            shared = {tuple(one) for one in before.places.tolist()}
            assert len(shared & {tuple(one) for one in after.places.tolist()}) >= 4
        holding = [window for window in mine if window.answer != NO_ANSWER]
        assert holding
        for window in holding:
            start, last = (place - window.first for place in window.answer)
            begin, end = window.places[start, 0], window.places[last, 1]
            assert question.context[begin:end].strip() == "good film"


def _extent(window: AnswerWindow) -> tuple[int, int]:
    return int(window.places[0, 0]), int(window.places[-1, 1])


def test_long_questions_are_cut() -> None:
    config = AnswersConfig(max_seq_length=24, stride=4, max_question_length=6)
    cut = WindowTokenizer.of(make_tokenizer(), config, own=True)
    window = next(cut.windows([Question("x", "was the film good " * 9, "good film", [])]))
    assert window.first == 6 + 2


def test_spans_are_short_and_in_order() -> None:
    starts = np.array([0.0, 1.0, 3.0, 0.0], np.float32)
    ends = np.array([0.0, 4.0, 1.0, 3.0], np.float32)
    null, spans = spans_of(np.stack([starts, ends], 1), longest=2, count=10)
    assert [(first, last) for _, first, last in spans][:2] == [(1, 2), (0, 0)]
    assert (0, 2) not in [(first, last) for _, first, last in spans]
    assert all(first <= last for _, first, last in spans)
    start, end = np.exp(starts) / np.exp(starts).sum(), np.exp(ends) / np.exp(ends).sum()
    assert null == pytest.approx(start[0] * end[0])
    assert spans[0][0] == pytest.approx(start[2] * end[3])


def test_windows_of_a_question_are_joined() -> None:
    question = Question("q", "?", "one two Two", [])
    empty = np.zeros(0)
    places = np.array([[0, 3], [4, 7], [8, 11]], np.int32)
    windows = [
        AnswerWindow(0, 0, empty, empty, 0, places[:2], NO_ANSWER),
        AnswerWindow(1, 0, empty, empty, 0, places[1:], NO_ANSWER),
    ]
    found = [
        WindowSpans(1, 0.1, [(0.2, 0, 0), (0.1, 1, 1)], 0.0),
        WindowSpans(0, 0.3, [(0.4, 0, 0), (0.3, 1, 1)], 0.0),
    ]
    result = answers_of(found, windows, [question], 5)["q"]
    assert [(one.text, one.start) for one in result.best] == [("two", 4), ("one", 0)]
    assert result.best[0].score == pytest.approx(0.6)
    assert result.null == 0.1
    assert result.odds == pytest.approx(-0.5)
