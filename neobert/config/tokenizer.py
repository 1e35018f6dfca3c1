"""The ``tokenizer`` section: which tokenizer, loaded or trained."""

from dataclasses import dataclass

from neobert.config.checks import at_least, one_of, require
from neobert.config.section import Section

PADDINGS = ("max_length", "longest")


@dataclass(kw_only=True)
class TokenizerConfig(Section):
    """A fast tokenizer of transformers."""

    name: str = "bert-base-uncased"
    """Hub id."""

    path: str | None = None
    """Local folder with a ``tokenizer.json``, a checkpoint, or a run; wins over ``name``."""

    max_length: int = 512
    """Longest input in tokens; ``model_max_length`` of the saved tokenizer."""

    padding: str = "max_length"
    """How padded batches (hub models) are padded: ``max_length`` or ``longest``."""

    truncation: bool = True
    """Cut documents that are too long (true), or spread them over several rows (false)."""

    vocab_size: int | None = None
    """Size the tokenizer must have; ``null`` takes whatever it has."""

    train_vocab_size: int | None = None
    """Train a WordPiece vocabulary of this size from the corpus instead of loading one; cached."""

    trust_remote_code: bool = False
    """Allow a tokenizer's own code to run."""

    revision: str | None = None
    """Commit, branch or tag of the hub repository."""

    allow_special_token_rewrite: bool = False
    """Give a tokenizer without a mask token RoBERTa's special tokens, instead of refusing it."""

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        problems = at_least("tokenizer.max_length", self.max_length, 1)
        problems += at_least("tokenizer.vocab_size", self.vocab_size, 1)
        problems += at_least("tokenizer.train_vocab_size", self.train_vocab_size, 64)
        problems += one_of("tokenizer.padding", self.padding, PADDINGS)
        problems += require(
            self.path is None or self.train_vocab_size is None,
            f"tokenizer.path={self.path} and tokenizer.train_vocab_size={self.train_vocab_size} "
            "exclude each other: load a tokenizer or train one (set the other to null)",
        )
        return problems
