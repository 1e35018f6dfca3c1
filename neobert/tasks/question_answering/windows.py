"""From questions to windows: ``[CLS] question [SEP] part of the context [SEP]``.

The windows of a long context overlap. They are those of transformers' pipeline.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

from neobert.config.answers import AnswersConfig
from neobert.errors import ConfigError
from neobert.tasks.question_answering.answer_rows import Question
from neobert.text_tokenizer import TextTokenizer, bert_template, boundary_tokens

AT_A_TIME = 500
"""Questions that are tokenised together; their encodings take memory."""

NO_ANSWER = (0, 0)
"""Start and end of the answer of a window without one: the first token."""


@dataclass(frozen=True, slots=True)
class AnswerWindow:
    """A question and a part of its context, as ids."""

    number: int
    """Of the window in its split."""

    question: int
    """Number of the question in its split."""

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    """Segment of each token."""

    first: int
    """Place of the first token of the context."""

    places: NDArray[np.int32]
    """Shape (tokens of context, 2): first character of each token's word, and the one behind it."""

    answer: tuple[int, int]
    """Places of the first and last token of the answer, or :data:`NO_ANSWER`."""


@dataclass(frozen=True, slots=True)
class QuestionSplit:
    """A split, tokenised."""

    questions: list[Question]
    windows: list[AnswerWindow]

    @property
    def gold(self) -> dict[str, list[str]]:
        """The texts of all answers, by the question's id."""
        return {question.id: [text for _, text in question.answers] for question in self.questions}

    @property
    def has_unanswerable(self) -> bool:
        """Whether some questions have no answer."""
        return not all(question.answers for question in self.questions)

    @property
    def is_labelled(self) -> bool:
        """Whether there is any answer to compare with."""
        return any(question.answers for question in self.questions)

    @property
    def description(self) -> str:
        """For messages: how much it is."""
        empty = sum(question.answer == NO_ANSWER for question in self.windows)
        return (
            f"{len(self.questions):,} questions in {len(self.windows):,} windows "
            f"({empty:,} without an answer)"
        )


@dataclass(frozen=True, slots=True)
class WindowTokenizer:
    """Cuts questions into windows."""

    text: TextTokenizer
    core: Tokenizer
    max_question_length: int

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerFast, config: AnswersConfig, own: bool
    ) -> "WindowTokenizer":
        """``own``: our models, whose windows have ``[CLS]`` and ``[SEP]``; models of the hub keep
        the form of their tokenizer. Raises ``ConfigError`` where the tokenizer lacks them.
        """
        if None in boundary_tokens(tokenizer):
            raise ConfigError(
                f"the tokenizer {tokenizer.name_or_path or 'of these weights'} has no [CLS] or no "
                "[SEP], between which questions and contexts stand: use the tokenizer that the "
                "model was trained with (tokenizer.path)"
            )
        text = TextTokenizer.of(tokenizer)
        core = Tokenizer.from_str(text.core_json)
        trained = tokenizer.backend_tokenizer.post_processor
        core.post_processor = bert_template(tokenizer) if own else trained
        core.enable_truncation(config.max_seq_length, stride=config.stride, strategy="only_second")
        windowed = replace(text, core_json=core.to_str()).core
        return cls(text, windowed, config.max_question_length)

    def windows(self, questions: Sequence[Question]) -> Iterator[AnswerWindow]:
        """The windows of all questions in their order."""
        number = 0
        for begin in range(0, len(questions), AT_A_TIME):
            part = questions[begin : begin + AT_A_TIME]
            pairs = list(zip(self._cut(part), (question.context for question in part), strict=True))
            encodings = self.core.encode_batch(pairs)
            for place, (question, whole) in enumerate(zip(part, encodings, strict=True)):
                for encoding in (whole, *whole.overflowing):
                    yield _window(number, begin + place, question, encoding)
                    number += 1

    def _cut(self, questions: Sequence[Question]) -> list[str]:
        """The questions, at most ``max_question_length`` tokens of each."""
        texts, longest = [question.text for question in questions], self.max_question_length
        encodings = self.text.core.encode_batch(texts, add_special_tokens=False)
        return [
            text if len(encoding) <= longest else text[: encoding.offsets[longest - 1][1]]
            for text, encoding in zip(texts, encodings, strict=True)
        ]


def _window(number: int, row: int, question: Question, encoding: Encoding) -> AnswerWindow:
    inside = [place for place, part in enumerate(encoding.sequence_ids) if part == 1]
    first = inside[0] if inside else len(encoding)
    offsets = np.array([encoding.offsets[place] for place in inside], np.int32).reshape(-1, 2)
    answer = NO_ANSWER
    if question.answers:
        begin, text = question.answers[0]
        answer = _tokens_of(offsets, begin, begin + len(text), first)
    return AnswerWindow(
        number,
        row,
        np.array(encoding.ids, np.int32),
        np.array(encoding.type_ids, np.int8),
        first,
        _of_words(offsets, [encoding.word_ids[place] for place in inside]),
        answer,
    )


def _tokens_of(offsets: NDArray[np.int32], begin: int, end: int, first: int) -> tuple[int, int]:
    """Places of the tokens that hold the characters from ``begin`` to ``end``."""
    if not len(offsets) or begin < offsets[0, 0] or end > offsets[-1, 1]:
        return NO_ANSWER
    start = int(np.searchsorted(offsets[:, 1], begin, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first + start, first + last) if start <= last else NO_ANSWER


def _of_words(offsets: NDArray[np.int32], words: list[int | None]) -> NDArray[np.int32]:
    """The characters of each token's whole word, as far as the window has it."""
    places, begin = offsets.copy(), 0
    for end in range(1, len(words) + 1):
        if end == len(words) or words[end] != words[begin] or words[begin] is None:
            places[begin:end] = offsets[begin, 0], offsets[end - 1, 1]
            begin = end
    return places
