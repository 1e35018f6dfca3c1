"""The ``tokenizer`` section: which tokenizer, loaded or trained."""

from dataclasses import dataclass
from typing import Annotated

from neobert.config.checks import Positive, at_least, one_of, require
from neobert.config.section import Section


@dataclass(kw_only=True)
class TokenizerConfig(Section):
    """A fast tokenizer of transformers."""

    name: str = "bert-base-uncased"
    """Hub id."""

    path: str | None = None
    """Local folder with a ``tokenizer.json``, a checkpoint, or a run; wins over ``name``."""

    max_length: Positive = 512
    """Longest input in tokens; ``model_max_length`` of the saved tokenizer."""

    padding: Annotated[str, one_of("max_length", "longest")] = "max_length"
    """How padded batches (hub models) are padded: ``max_length`` or ``longest``."""

    truncation: bool = True
    """Cut documents that are too long (true), or spread them over several rows (false)."""

    vocab_size: Positive | None = None
    """Size the tokenizer must have; ``null`` takes whatever it has."""

    train_vocab_size: Annotated[int, at_least(64)] | None = None
    """Train a WordPiece vocabulary of this size from the corpus instead of loading one; cached."""

    trust_remote_code: bool = False
    """Allow a tokenizer's own code to run."""

    revision: str | None = None
    """Commit, branch or tag of the hub repository."""

    allow_special_token_rewrite: bool = False
    """Give a tokenizer without a mask token RoBERTa's special tokens, instead of refusing it."""

    def combinations(self) -> list[str]:
        return require(
            self.path is None or self.train_vocab_size is None,
            f"tokenizer.path={self.path} and tokenizer.train_vocab_size={self.train_vocab_size} "
            "exclude each other: load a tokenizer or train one (set the other to null)",
        )
