"""The ``tokens`` section: fine-tuning on tags of words."""

from dataclasses import dataclass
from typing import Annotated

from neobert.config.checks import Column, Count, Dropout, NotNegative, at_least, one_of
from neobert.config.section import Section


@dataclass(kw_only=True)
class TokensConfig(Section):
    """Words with tags: named entities, parts of speech."""

    words_column: Column = "tokens"
    """Column of the words of a row, a list."""

    tags_column: Column = "tags"
    """Column of their tags, a list of names or of numbers."""

    label_all: bool = False
    """Learn and predict the tag at every token of a word (true), or at its first (false)."""

    max_seq_length: Annotated[int, at_least(3)] = 512
    """Longest document in tokens; longer rows are split between words, none is dropped."""

    bad_rows: Annotated[str, one_of("error", "skip")] = "error"
    """Rows whose words and tags do not fit together: ``error``, or ``skip`` them and count."""

    allow_random_weights: bool = False
    """Learn from random weights where neither ``model.init_from`` nor ``model.from_hub`` is set."""

    dropout: Dropout = 0.1
    """Dropout before the classifier, in [0, 1)."""

    classifier_init_range: NotNegative = 0.02
    """Standard deviation of the classifier's first weights."""

    num_workers: Count = 0
    """Loader processes."""
