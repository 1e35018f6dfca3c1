"""Text to token ids: the one path that every task, tool and process uses.

A special token that is spelled out in a text is text. Neither the flag for this in ``tokenizers``
(it is not part of the JSON, so another process loses it) nor the model of a tokenizer (Unigram,
WordLevel and WordPiece look up whole words) keeps to that. So the special tokens get names here
that nobody types, and the ids stay as they are.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, processors

if TYPE_CHECKING:  # processes that only tokenise start without transformers
    from transformers import PreTrainedTokenizerFast

Encoded = tuple[NDArray[np.uint32], NDArray[np.int64]]
"""Ids of some documents end to end, and how many each has."""

LONGEST_WORD = 1000
"""Characters up to which WordPiece looks into a word (BERT: 100). Its time is cubic in them."""

GUARD = "\U0010ffff"
"""A code point that is no character: it opens and closes the hidden names."""


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """A tokenizer as a function from texts to ids. Plain data, so that it can be pickled."""

    core_json: str
    """The tokenizer of ``tokenizers``, without padding, truncation and post-processor."""

    start_id: int | None
    """``[CLS]``, else the beginning-of-sequence token: opens each document."""

    end_id: int | None
    """``[SEP]``, else the end-of-sequence token: closes each document."""

    matches_special: bool = False
    """Whether some special tokens become their ids where a text spells them out."""

    @classmethod
    def of(
        cls, tokenizer: "PreTrainedTokenizerFast", matched: Collection[str] = ()
    ) -> "TextTokenizer":
        """The tokenizer of transformers, whatever padding or truncation its files switch on.

        Special tokens in ``matched`` become their ids where a text spells them out.
        """
        core = json.loads(tokenizer.backend_tokenizer.to_str())
        core.update(padding=None, truncation=None, post_processor=None)
        roles = set(tokenizer.all_special_tokens)
        _hide(core, roles | special_tokens(core), matched)
        _bound(core["model"])
        vocabulary = tokenizer.get_vocab()
        start, end = (vocabulary.get(token or "") for token in boundary_tokens(tokenizer))
        return cls(json.dumps(core), start, end, matches_special=bool(matched))

    @property
    def core(self) -> Tokenizer:
        """The tokenizer that :attr:`core_json` describes."""
        return _core(self.core_json, self.matches_special)

    @property
    def overhead(self) -> int:
        """Tokens that opening and closing adds to each document: 0 to 2."""
        return (self.start_id is not None) + (self.end_id is not None)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of the texts end to end, neither cut nor wrapped, and the number of each."""
        ids = self._ids(texts)
        lengths = np.array([len(document) for document in ids], dtype=np.int64)
        tokens = np.fromiter(
            (token for document in ids for token in document), np.uint32, lengths.sum()
        )
        return tokens, lengths

    def documents(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Ids of each text, cut to ``max_length`` tokens, start and end token included."""
        return [self.wrap(ids, max_length) for ids in self._ids(texts)]

    def wrap(self, ids: Iterable[int], max_length: int | None = None) -> list[int]:
        """A document between its start and end token, cut to ``max_length`` tokens in all."""
        start = [] if self.start_id is None else [self.start_id]
        end = [] if self.end_id is None else [self.end_id]
        inner = list(ids)
        if max_length is not None:
            inner = inner[: max(0, max_length - self.overhead)]
        return [*start, *inner, *end]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self.core.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def boundary_tokens(tokenizer: "PreTrainedTokenizerFast") -> tuple[str | None, str | None]:
    """The tokens that open and close a document; ``None`` where the tokenizer has none.

    They are known by their role, else as what the post-processor puts around a text.
    """
    start = tokenizer.cls_token or tokenizer.bos_token
    end = tokenizer.sep_token or tokenizer.eos_token
    if start is None or end is None:
        first, last = _template_of(tokenizer)
        start, end = start or first, end or last
    return start, end


def wraps_documents(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether the post-processor puts exactly :func:`boundary_tokens` around a text."""
    return _template_of(tokenizer) == boundary_tokens(tokenizer)


def bert_template(tokenizer: "PreTrainedTokenizerFast") -> processors.TemplateProcessing:
    """``[CLS] a [SEP]`` and ``[CLS] a [SEP] b [SEP]``; segment 1 is b and what closes it."""
    start, end = boundary_tokens(tokenizer)
    opened, closed = f"{start} " if start else "", f" {end}" if end else ""
    special = sorted({token for token in (start, end) if token})
    return processors.TemplateProcessing(
        single=f"{opened}$A{closed}",
        pair=f"{opened}$A{closed} $B:1{closed}:1" if end else f"{opened}$A $B:1",
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in special],
    )


@lru_cache(maxsize=4)
def _core(core_json: str, matches_special: bool) -> Tokenizer:
    """Made once in a process, however many copies of a :class:`TextTokenizer` come there."""
    core = Tokenizer.from_str(core_json)
    core.encode_special_tokens = not matches_special  # for those that keep their names
    return core


def special_tokens(core: dict) -> set[str]:  # type: ignore[type-arg]
    """Names of the added tokens that a ``tokenizer.json`` marks as special."""
    return {entry["content"] for entry in core["added_tokens"] if entry["special"]}


def _template_of(tokenizer: "PreTrainedTokenizerFast") -> tuple[str | None, str | None]:
    """The token that the post-processor puts before a text, and the one behind it."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_truncation()
    core.no_padding()
    encoding = core.encode("a")
    added = encoding.special_tokens_mask
    before = next((place for place, mark in enumerate(added) if not mark), len(added))
    after = next((place for place, mark in enumerate(reversed(added)) if not mark), 0)
    start = encoding.tokens[0] if before == 1 else None
    return start, encoding.tokens[-1] if after == 1 else None


def _hide(core: dict, names: set[str], matched: Collection[str]) -> None:  # type: ignore[type-arg]
    """Give special tokens names that no text has, in the model and among the added tokens."""
    model = core["model"]
    names = names - set(matched) - _pieces_of_text(model, names)
    hidden = {name: f"{GUARD}{name}{GUARD}" for name in names}
    for entry in core["added_tokens"]:
        if entry["content"] in hidden:
            entry.update(content=hidden[entry["content"]], normalized=False)
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {hidden.get(piece, piece): number for piece, number in vocab.items()}
    else:  # Unigram: pairs of a piece and its score
        model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]


def _pieces_of_text(model: dict, names: set[str]) -> set[str]:  # type: ignore[type-arg]
    """Those that ordinary text consists of, though they have a role: CLIP pads with ``!``."""
    merged = {
        piece
        for left, right in model.get("merges", [])
        for piece in (left, right, left + right)
        if piece in names
    }
    return merged | {name for name in names if len(name) == 1}


def _bound(model: dict) -> None:  # type: ignore[type-arg]
    """Make tokenising a function of the text, in a time that does not explode with its words."""
    if model.get("dropout"):  # BPE: merges left out at random
        model["dropout"] = None
    if "max_input_chars_per_word" in model:
        model["max_input_chars_per_word"] = min(model["max_input_chars_per_word"], LONGEST_WORD)


def utf8_bytes(text: str) -> int:
    """Bytes of ``text`` in UTF-8; half a surrogate pair counts 3."""
    return len(text.encode("utf-8", "surrogatepass"))
