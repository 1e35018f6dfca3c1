"""Units of masking: tokens, whole words, or spans, and how they are chosen.

A unit is masked whole or not at all. Whole words follow BERT's whole-word masking; spans are runs
of consecutive tokens whose lengths are uniform (GPT-BERT, arXiv 2410.24159) or geometric (SpanBERT,
arXiv 1907.10529, section 3.1).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

Places = NDArray[np.int64]
"""Indices of the tokens of a row that may be masked, ascending."""


@dataclass(frozen=True, slots=True)
class MaskUnits:
    """How the maskable tokens of a row are grouped."""

    kind: str = "token"
    """``token``, ``word`` or ``span``."""

    continues_word: NDArray[np.bool_] | None = None
    """By id, for words: whether a token continues the word of the token before it."""

    longest_span: int = 3
    geometric: float | None = None
    """Success probability of the spans' lengths; ``None``: uniform from 1 to ``longest_span``."""

    def of(
        self, ids: NDArray[np.int64], places: Places, draw: np.random.Generator
    ) -> NDArray[np.int64]:
        """The unit of each of ``places``: ascending numbers from 0, equal within a unit.

        Special tokens and the ends of documents are no places, so no unit crosses them.
        """
        if self.kind == "token" or not len(places):
            return np.arange(len(places))
        begins = np.append(True, np.diff(places) > 1)
        if self.kind == "word":
            assert self.continues_word is not None
            begins |= ~self.continues_word[ids[places]]
        else:
            lengths = self._span_lengths(len(places), draw)
            starts = np.cumsum(lengths) - lengths
            begins[starts[starts < len(places)]] = True
        return np.cumsum(begins) - 1

    def _span_lengths(self, count: int, draw: np.random.Generator) -> NDArray[np.int64]:
        """Lengths of at least ``count`` tokens together."""
        if self.geometric is None:
            return draw.integers(1, self.longest_span, size=count, endpoint=True)
        return np.minimum(draw.geometric(self.geometric, size=count), self.longest_span)


def choose_units(
    units: NDArray[np.int64], count: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Indices into ``units``, ascending, of whole units with at most ``count`` tokens together.

    Units are tried in random order; one that does not fit is passed over, so fewer than ``count``
    tokens are chosen only where no unit that is left is short enough.
    """
    sizes = np.bincount(units)
    chosen = np.zeros(len(sizes), bool)
    remaining = count
    for unit in draw.permutation(len(sizes)):
        if remaining == 0:
            break
        if sizes[unit] <= remaining:
            chosen[unit] = True
            remaining -= int(sizes[unit])
    return np.flatnonzero(chosen[units])


def continues_word(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> NDArray[np.bool_]:
    """By id: whether a token continues a word, read from the marks of the vocabulary.

    ``##`` marks a continuation (WordPiece); where a vocabulary marks beginnings (``Ġ`` of
    byte-level BPE, ``▁`` of SentencePiece), a token without a mark is a continuation. Raises
    ``ValueError`` if the vocabulary has neither mark.
    """
    vocabulary = tokenizer.get_vocab()
    table = np.zeros(vocab_size, bool)
    if any(token.startswith("##") for token in vocabulary):
        ids = [number for token, number in vocabulary.items() if token.startswith("##")]
    elif mark := next((m for m in "Ġ▁" if any(t.startswith(m) for t in vocabulary)), None):
        newline = "Ċ"  # byte-level BPE: a line break ends a word too
        ids = [
            number for token, number in vocabulary.items() if not token.startswith((mark, newline))
        ]
    else:
        raise ValueError(
            "the vocabulary marks neither word beginnings (Ġ, ▁) nor inner pieces (##)"
        )
    table[ids] = True
    table[list(tokenizer.all_special_ids)] = False
    return table
