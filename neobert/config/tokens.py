"""The ``tokens`` section: fine-tuning on tags of words."""

from dataclasses import dataclass

from neobert.config.checks import at_least, one_of, require, within
from neobert.config.section import Section

BAD_ROWS = ("error", "skip")


@dataclass(kw_only=True)
class TokensConfig(Section):
    """Words with tags: named entities, parts of speech."""

    words_column: str = "tokens"
    """Column of the words of a row, a list."""

    tags_column: str = "tags"
    """Column of their tags, a list of names or of numbers."""

    label_all: bool = False
    """Learn and predict the tag at every token of a word (true), or at its first (false)."""

    max_seq_length: int = 512
    """Longest document in tokens; longer rows are split between words, none is dropped."""

    bad_rows: str = "error"
    """Rows whose words and tags do not fit together: ``error``, or ``skip`` them and count."""

    allow_random_weights: bool = False
    """Learn from random weights where neither ``model.init_from`` nor ``model.from_hub`` is set."""

    dropout: float = 0.1
    """Dropout before the classifier, in [0, 1)."""

    classifier_init_range: float = 0.02
    """Standard deviation of the classifier's first weights."""

    num_workers: int = 0
    """Loader processes."""

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        problems = at_least("tokens.max_seq_length", self.max_seq_length, 3)
        problems += one_of("tokens.bad_rows", self.bad_rows, BAD_ROWS)
        problems += within("tokens.dropout", self.dropout, 0, 0.999)
        problems += at_least("tokens.classifier_init_range", self.classifier_init_range, 0)
        problems += at_least("tokens.num_workers", self.num_workers, 0)
        for key in ("words_column", "tags_column"):
            problems += require(bool(getattr(self, key)), f"tokens.{key}: must name a column")
        return problems
