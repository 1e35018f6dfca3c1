"""From words with labels to documents of ids whose tokens know their word."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from neobert.text_tokenizer import TextTokenizer

Token = tuple[int, int, bool]
"""Id, number of its word in the row, and whether it is the word's first token."""

Target = tuple[int, int, int]
"""Place in the document, label, and number of the word in the split, or -1 for a further token."""


@dataclass(frozen=True, slots=True)
class TaggedDocument:
    """A row of words, or a part of a long one."""

    ids: list[int]
    targets: list[Target]


def tokens_of_words(text: TextTokenizer, rows: Sequence[Sequence[str]]) -> Iterator[list[Token]]:
    """The tokens of each row: those of its words joined by spaces, as a pipeline gets them.

    So a vocabulary that marks the beginnings of words (byte-level BPE) sees them as in running
    text. A word of which the tokenizer keeps nothing has no token.
    """
    texts = [" ".join(words) for words in rows]
    encodings = text.core.encode_batch(texts, add_special_tokens=False)
    for words, encoding in zip(rows, encodings, strict=True):
        starts = list(accumulate((len(word) + 1 for word in words), initial=0))
        tokens: list[Token] = []
        for number, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            # By its last character: a token may begin with the space before its word.
            word = min(bisect_right(starts, max(begin, end - 1)) - 1, len(words) - 1)
            tokens.append((number, word, not tokens or tokens[-1][1] != word))
        yield tokens


def cut_between_words(tokens: list[Token], room: int) -> Iterator[list[Token]]:
    """Parts of at most ``room`` tokens; within a word only where it alone is longer."""
    start = 0
    while start < len(tokens):
        end = min(start + room, len(tokens))
        while start < end < len(tokens) and not tokens[end][2]:
            end -= 1
        end = end if end > start else start + room
        yield tokens[start:end]
        start = end


def tagged_documents(
    text: TextTokenizer,
    rows: Sequence[Sequence[str]],
    labels: Sequence[Sequence[int]],
    max_length: int,
    label_all: bool,
) -> list[TaggedDocument]:
    """Documents of at most ``max_length`` tokens, start and end token included.

    The first token of a word carries its label, with ``label_all`` the others do too.
    """
    documents, first_word = [], 0
    opened = int(text.start_id is not None)
    for row_labels, tokens in zip(labels, tokens_of_words(text, rows), strict=True):
        for part in cut_between_words(tokens, max_length - text.overhead):
            targets = [
                (place + opened, row_labels[word], first_word + word if is_first else -1)
                for place, (_, word, is_first) in enumerate(part)
                if is_first or label_all
            ]
            documents.append(TaggedDocument(text.wrap([token for token, _, _ in part]), targets))
        first_word += len(row_labels)
    return documents
