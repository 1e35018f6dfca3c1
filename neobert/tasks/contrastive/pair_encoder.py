"""Pairs as a table of ids; imports nothing heavy, so that a process that does it starts fast."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import pyarrow as pa

from neobert.tasks.contrastive.packaged_pairs import Example
from neobert.text_tokenizer import TextTokenizer

VERSION = 2
"""Of what is written; part of its key."""

TRAIN, HELD_OUT, UNDECIDED = 0, 1, 2
"""Values of the column ``split``; where it is undecided, ``dataset.validation_split`` decides."""

IDS, TEXTS = pa.list_(pa.int32()), pa.int64()
SCHEMA = pa.schema(
    [
        ("query", IDS),
        ("positive", IDS),
        ("negatives", pa.list_(IDS)),
        # Hashes of texts: equal texts are known by them, without the texts.
        ("query_text", TEXTS),
        ("positive_text", TEXTS),
        ("negative_texts", pa.list_(TEXTS)),
        ("group", TEXTS),
        ("split", pa.int8()),
    ]
)


@dataclass(frozen=True, slots=True)
class PairEncoder:
    """Turns pairs into a table of :data:`SCHEMA`: all that their tokens depend on beside the texts.

    Plain data, for other processes.
    """

    text: TextTokenizer
    fingerprint: str
    """Of the tokenizer."""

    max_length: int
    query_prefix: str = ""
    document_prefix: str = ""

    def key(self) -> dict[str, object]:
        """Part of the key and of the manifest of what is written."""
        return {
            "version": VERSION,
            "tokenizer": self.fingerprint,
            "max_length": self.max_length,
            "query_prefix": self.query_prefix,
            "document_prefix": self.document_prefix,
        }

    def queries(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of queries with prefix, start and end token, cut to the length."""
        prefixed = [self.query_prefix + text for text in texts]
        return self.text.documents(prefixed, self.max_length)

    def documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of documents, likewise."""
        prefixed = [self.document_prefix + text for text in texts]
        return self.text.documents(prefixed, self.max_length)

    def __call__(self, pairs: list[Example]) -> pa.RecordBatch:
        """The rows of these pairs."""
        documents = [pair.positive for pair in pairs]
        documents += [text for pair in pairs for text in pair.negatives]
        encoded = self.documents(documents)
        negatives = iter(encoded[len(pairs) :])
        columns = {
            "query": self.queries([pair.query for pair in pairs]),
            "positive": encoded[: len(pairs)],
            "negatives": [[next(negatives) for _ in pair.negatives] for pair in pairs],
            "query_text": [text_number(pair.query) for pair in pairs],
            "positive_text": [text_number(pair.positive) for pair in pairs],
            "negative_texts": [[text_number(text) for text in pair.negatives] for pair in pairs],
            "group": [text_number(f"group {pair.group}") for pair in pairs],
            "split": [UNDECIDED if pair.held_out is None else int(pair.held_out) for pair in pairs],
        }
        return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def text_number(text: str) -> int:
    """64 bits that stand for a text; in 10^11 batches of 10^4 texts, two share them by chance."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
