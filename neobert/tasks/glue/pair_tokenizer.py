"""From one or two texts to ids: ``[CLS] a [SEP]`` and ``[CLS] a [SEP] b [SEP]``, cut to length.

Imports nothing heavy, so that a process that does it starts fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from neobert.errors import ConfigError
from neobert.text_tokenizer import TextTokenizer, bert_template, boundary_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EncodedPairs = tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.int64]]
"""Ids of some rows end to end, the segment of each, and how many each row has."""


@dataclass(frozen=True, slots=True)
class PairTokenizer:
    """Turns rows of one or two texts into ids. Plain data, so that it can be pickled."""

    text: TextTokenizer
    """With a post-processor and a length."""

    columns: tuple[str, ...]

    @classmethod
    def of(
        cls,
        tokenizer: "PreTrainedTokenizerFast",
        columns: tuple[str, ...],
        max_length: int,
        own: bool,
    ) -> "PairTokenizer":
        """``own``: our models, whose documents always open with [CLS] and close with [SEP].

        Models of the hub keep the form that their tokenizer gives. Raises ``ConfigError`` where the
        tokenizer lacks what the form needs.
        """
        text = TextTokenizer.of(tokenizer)
        core = Tokenizer.from_str(text.core_json)
        core.post_processor = tokenizer.backend_tokenizer.post_processor
        if own:
            _require_boundaries(tokenizer)
            core.post_processor = bert_template(tokenizer)
        elif len(columns) == 2 and tokenizer.sep_token is None:
            raise ConfigError(_lacks(tokenizer, "[SEP] (sep_token), which pairs of texts need"))
        core.enable_truncation(max_length, strategy="longest_first")
        return cls(replace(text, core_json=core.to_str()), columns)

    def __call__(self, texts: Sequence[Sequence[str]]) -> EncodedPairs:
        """Ids of rows; ``texts`` has a sequence per column. The longer text of a pair is cut."""
        rows = list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))
        encodings = self.text.core.encode_batch(rows)
        ids = [encoding.ids for encoding in encodings]
        types = [encoding.type_ids for encoding in encodings]
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        return _joined(ids, np.int32), _joined(types, np.int8), lengths


def _joined(rows: list[list[int]], dtype: type[np.int32] | type[np.int8]) -> np.ndarray:
    return np.fromiter((number for row in rows for number in row), dtype)


def _require_boundaries(tokenizer: "PreTrainedTokenizerFast") -> None:
    start, end = boundary_tokens(tokenizer)
    if start is None:
        raise ConfigError(_lacks(tokenizer, "[CLS] (cls_token), which the classifier reads"))
    if end is None:
        raise ConfigError(_lacks(tokenizer, "[SEP] (sep_token), which closes each text"))


def _lacks(tokenizer: "PreTrainedTokenizerFast", what: str) -> str:
    return (
        f"the tokenizer {tokenizer.name_or_path or 'of these weights'} has no {what}: use the "
        "tokenizer that the model was trained with (tokenizer.path)"
    )
