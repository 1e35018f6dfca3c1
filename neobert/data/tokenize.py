"""Documents → ids, batch by batch: tokenised, or checked where they are ids already."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from neobert.data.sources import Documents
from neobert.errors import ConfigError
from neobert.text_tokenizer import Encoded, TextTokenizer

if TYPE_CHECKING:  # helper processes start without transformers and torch
    from neobert.data.tokenizer import TokenizerInfo

BATCH = 1000
"""Documents that are tokenised at a time."""


@dataclass(frozen=True, slots=True)
class DocumentEncoder:
    """What turns documents into ids: of a tokenizer, what helper processes need."""

    name: str
    text: TextTokenizer
    pad_token_id: int
    real_vocab_size: int
    vocab_size: int

    @classmethod
    def of(cls, info: "TokenizerInfo") -> "DocumentEncoder":
        """That of a checked tokenizer."""
        sizes = info.real_vocab_size, info.vocab_size
        return cls(info.name, info.text, info.pad_token_id, *sizes)


class DocumentReader:
    """Reads documents from the first to the last, as ids or passing over them."""

    def __init__(self, documents: Documents, encoder: DocumentEncoder) -> None:
        self.documents, self.encoder = documents, encoder
        self.row = 0
        """Number of the next document."""

        self._values = documents.ids() if documents.tokenized else documents.texts()

    def take(self, count: int) -> Iterator[Encoded]:
        """The next ``count`` documents as ids; fewer at the end."""
        while count > 0 and (batch := list(islice(self._values, min(BATCH, count)))):
            yield self._encode(batch)
            self.row += len(batch)
            count -= len(batch)

    def skip(self, count: int) -> int:
        """Pass over ``count`` documents; returns how many there were."""
        skipped = sum(1 for _ in islice(self._values, count))
        self.row += skipped
        return skipped

    def _encode(self, batch: list) -> Encoded:  # type: ignore[type-arg]
        if self.documents.tokenized:
            return checked_ids(batch, self.encoder, self.documents.place_of, self.row)
        return self.encoder.text.encode(batch)


def tokens_of(documents: Documents, info: "TokenizerInfo") -> Iterator[Encoded]:
    """All documents as ids."""
    return DocumentReader(documents, DocumentEncoder.of(info)).take(sys.maxsize)


def checked_ids(
    batch: Sequence[Sequence[object]],
    encoder: DocumentEncoder,
    place_of: Callable[[int], str],
    first_row: int = 0,
) -> Encoded:
    """Documents that are ids already, without the special tokens at their ends.

    Raises ``ConfigError`` at an id that the tokenizer does not have, with what ``place_of`` calls
    its row.
    """
    special = (encoder.text.start_id, encoder.text.end_id, encoder.pad_token_id)
    at_ends = [token for token in special if token is not None]
    tokens, lengths = _end_to_end(batch, place_of, first_row)
    wrong = np.flatnonzero((tokens < 0) | (tokens >= encoder.real_vocab_size))
    if len(wrong):
        row = first_row + int(np.searchsorted(np.cumsum(lengths), wrong[0], side="right"))
        raise ConfigError(
            f"{place_of(row)} has the id {tokens[wrong[0]]}, but the tokenizer {encoder.name} "
            f"has the ids 0 to {encoder.real_vocab_size - 1}; name the tokenizer that the data "
            "was made with (tokenizer.path)"
        )
    if np.isin(tokens, at_ends).any():
        each = np.split(tokens, np.cumsum(lengths)[:-1])
        trimmed = [_trimmed(ids, at_ends) for ids in each]
        tokens = np.concatenate(trimmed)
        lengths = np.array([len(ids) for ids in trimmed], dtype=np.int64)
    return tokens.astype(np.uint32), lengths


def _end_to_end(
    batch: Sequence[Sequence[object]], place_of: Callable[[int], str], first_row: int
) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(ids) for ids in batch], dtype=np.int64)
    values = list(chain.from_iterable(batch))
    # 1.5, "1" and True would become 1.
    if all(_is_id(value) for value in values):
        return np.array(values, dtype=np.int64), lengths
    row, value = next(
        (row, value)
        for row, ids in enumerate(batch, first_row)
        for value in ids
        if not _is_id(value)
    )
    raise ConfigError(f"{place_of(row)} holds {value!r}, which is not an id")


def _is_id(value: object) -> bool:
    return type(value) is int and abs(value) < 1 << 62


def _trimmed(ids: np.ndarray, at_ends: list[int]) -> np.ndarray:
    """``ids`` without special tokens at the ends: laying out a row adds them."""
    inner = np.flatnonzero(~np.isin(ids, at_ends))
    return ids[inner[0] : inner[-1] + 1] if len(inner) else ids[:0]
