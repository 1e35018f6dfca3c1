"""The ``answers`` section: fine-tuning on answers that are spans of their context."""

from dataclasses import dataclass
from typing import Annotated

from neobert.config.checks import (
    Column,
    Count,
    Dropout,
    NotNegative,
    Positive,
    one_of,
    require,
    within,
)
from neobert.config.section import Section

SPECIAL_TOKENS = 3
"""``[CLS] question [SEP] context [SEP]``."""


@dataclass(kw_only=True)
class AnswersConfig(Section):
    """Extractive question answering, in SQuAD's form."""

    context_column: Column = "context"
    """Column of the text that holds the answer."""

    question_column: Column = "question"
    """Column of the question."""

    answers_column: Column = "answers"
    """Column of the answers: ``{text: [...], answer_start: [...]}`` (characters from 0), or a list
    of such pairs; empty where the context has no answer."""

    id_column: Column = "id"
    """Column of the question's name in the predictions; without it, the number of the row."""

    max_seq_length: int = 384
    """Longest window in tokens: the question, a part of its context, the special tokens."""

    stride: Count = 128
    """Tokens of context that neighbouring windows share."""

    max_question_length: Positive = 64
    """Longest question in tokens; longer ones are cut."""

    max_answer_length: Positive = 30
    """Longest answer that is predicted, in tokens."""

    n_best: Positive = 20
    """Answers per question in ``nbest_<split>.json``."""

    null_score_threshold: Annotated[float, within(-1, 1)] | None = None
    """A question stays unanswered where the probability of no answer exceeds that of the best by
    more than this; ``null``: tuned for F1 on the evaluation data, where it has such questions."""

    bad_rows: Annotated[str, one_of("error", "skip")] = "error"
    """Rows that do not fit (an answer not at its position, no context): ``error``, or ``skip``
    them and count."""

    allow_random_weights: bool = False
    """Learn from random weights where neither ``model.init_from`` nor ``model.from_hub`` is set."""

    dropout: Dropout = 0.1
    """Dropout before the head, in [0, 1)."""

    classifier_init_range: NotNegative = 0.02
    """Standard deviation of the head's first weights."""

    num_workers: Count = 0
    """Loader processes."""

    def combinations(self) -> list[str]:
        least = self.max_question_length + SPECIAL_TOKENS + self.stride + 1
        return require(
            self.max_seq_length >= least,
            f"answers.max_seq_length={self.max_seq_length} leaves no new context in a window: "
            f"raise it to {least} or more, or lower answers.max_question_length="
            f"{self.max_question_length} or answers.stride={self.stride}",
        )
