"""From scores of starts and ends to answers, by the rules of transformers' pipeline.

In each window the probabilities of all possible starts sum to 1, and those of all ends: the tokens
of the context and the first token, which stands for no answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neobert.tasks.question_answering.answer_rows import Question
from neobert.tasks.question_answering.windows import AnswerWindow


class WindowSpans(NamedTuple):
    """The likeliest spans of a window."""

    number: int
    """Of the window."""

    null: float
    """Probability that the window has no answer."""

    spans: list[tuple[float, int, int]]
    """Probability, first and last token, counted from the first one of the context."""

    loss: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, with the characters of the context that it is."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What was found for a question: the best first."""

    null: float
    """Probability that there is no answer: the lowest of its windows."""

    best: list[Answer]

    @property
    def text(self) -> str:
        """The best answer that is not empty, if there is one."""
        return self.best[0].text if self.best else ""

    @property
    def odds(self) -> float:
        """How much likelier no answer is than the best one."""
        return self.null - (self.best[0].score if self.best else 0.0)


def candidates(n_best: int) -> int:
    """Spans per window of which the ``n_best`` answers are made; several may be one word."""
    return 2 * n_best + 10


def spans_of(
    scores: NDArray[np.float32], longest: int, count: int
) -> tuple[float, list[tuple[float, int, int]]]:
    """Probability of no answer, and the ``count`` likeliest spans of ``longest`` tokens or fewer.

    ``scores`` has a row for the first token and one for each of the context, and two columns: as
    start and as end.
    """
    start, end = _softmax(scores[:, 0]), _softmax(scores[:, 1])
    null = float(start[0] * end[0])
    products = np.tril(np.triu(np.outer(start[1:], end[1:])), longest - 1)
    flat = products.ravel()
    best = np.argsort(-flat, kind="stable")[:count]
    width = max(1, len(start) - 1)
    spans = [(float(flat[index]), int(index) // width, int(index) % width) for index in best]
    return null, [span for span in spans if span[0] > 0]


def answers_of(
    predictions: Sequence[WindowSpans],
    windows: Sequence[AnswerWindow],
    questions: Sequence[Question],
    n_best: int,
) -> dict[str, Answers]:
    """The answers to each question of which a window was seen, by the question's id.

    Spans with the same text are one answer, whose probabilities add up.
    """
    parts: dict[int, list[WindowSpans]] = {}
    for window in sorted(predictions, key=lambda window: window.number):
        parts.setdefault(windows[window.number].question, []).append(window)
    results = {}
    for row, of_question in sorted(parts.items()):
        question, merged = questions[row], dict[str, Answer]()
        for part in of_question:
            places = windows[part.number].places
            for score, first, last in part.spans:
                _add(merged, question, int(places[first, 0]), int(places[last, 1]), score)
        best = sorted(merged.values(), key=lambda answer: -answer.score)[:n_best]
        results[question.id] = Answers(min(part.null for part in of_question), best)
    return results


def _add(merged: dict[str, Answer], question: Question, start: int, end: int, score: float) -> None:
    text = question.context[start:end].strip()
    if not text:
        return
    known = merged.get(text.lower())
    if known is not None:
        text, start, end, score = known.text, known.start, known.end, known.score + score
    merged[text.lower()] = Answer(text, start, end, score)


def by_threshold(answers: Mapping[str, Answers], threshold: float | None) -> dict[str, str]:
    """The text for each question; empty where no answer is likelier by more than ``threshold``."""
    return {
        name: "" if threshold is not None and answer.odds > threshold else answer.text
        for name, answer in answers.items()
    }


def files_of(answers: Mapping[str, Answers], threshold: float | None) -> dict[str, object]:
    """Contents of the files of a split; ``predictions`` and ``null_odds`` are SQuAD's."""
    return {
        "predictions": by_threshold(answers, threshold),
        "nbest": {name: [asdict(span) for span in answer.best] for name, answer in answers.items()},
        "null_odds": {name: answer.odds for name, answer in answers.items()},
    }


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()
