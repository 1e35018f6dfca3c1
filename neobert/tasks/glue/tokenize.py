"""From texts to ids: ``[CLS] a [SEP]`` and ``[CLS] a [SEP] b [SEP]``, cut to length, cached."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from neobert.data.cache import key_of, publish
from neobert.errors import ConfigError
from neobert.tasks.glue.batch import Examples
from neobert.tasks.glue.labels import Labelled, column_values
from neobert.tasks.glue.tasks import NUMBER
from neobert.text_tokenizer import TextTokenizer, bert_template, boundary_tokens

VERSION = 2
ROWS_PER_PROCESS = 20_000
"""Fewer are tokenised faster than a process starts."""

IDS, TYPES = "input_ids", "token_type_ids"


@dataclass(frozen=True, slots=True)
class PairTokenizer:
    """Turns rows of one or two texts into ids. Plain data, so that it can be pickled."""

    text: TextTokenizer
    """With a post-processor and a length."""

    columns: tuple[str, ...]

    def __call__(self, rows: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        """Ids and segments of the rows. Pairs that are too long lose from their longer text."""
        texts = [rows[column] for column in self.columns]
        pairs = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
        encodings = self.text.core.encode_batch(pairs)
        return {
            IDS: [encoding.ids for encoding in encodings],
            TYPES: [encoding.type_ids for encoding in encodings],
        }


def build_pair_tokenizer(
    tokenizer: PreTrainedTokenizerFast, columns: tuple[str, ...], max_length: int, own: bool
) -> PairTokenizer:
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
    return PairTokenizer(replace(text, core_json=core.to_str()), columns)


def tokenize(part: Labelled, tokenizer: PairTokenizer, cache: Path, processes: int) -> Examples:
    """The examples of a split; ids are kept in ``cache`` under a key of texts and tokenizer."""
    recipe = {
        "data": part.data._fingerprint,
        "tokenizer": sha256(tokenizer.text.core_json.encode()).hexdigest(),
        "columns": tokenizer.columns,
        "version": VERSION,
    }
    folder = cache / "glue" / key_of(recipe)

    def make(target: Path) -> None:
        _write(part, tokenizer, processes, target)

    publish(folder, make)
    return Examples(
        ids=np.load(folder / "ids.npy", mmap_mode="r"),
        types=np.load(folder / "types.npy", mmap_mode="r"),
        bounds=np.load(folder / "bounds.npy"),
        labels=part.labels,
        names=_names(part),
    )


def _names(part: Labelled) -> NDArray[np.int64]:
    """GLUE's own numbers of the examples, where there are such, else their places."""
    feature = part.data.features.get(NUMBER)
    if feature is None or not str(getattr(feature, "dtype", "")).startswith("int"):
        return np.arange(len(part.labels), dtype=np.int64)
    return np.array(column_values(part.data, NUMBER), dtype=np.int64)


def _write(part: Labelled, tokenizer: PairTokenizer, processes: int, target: Path) -> None:
    number = min(processes, len(part.data) // ROWS_PER_PROCESS)
    encoded = part.data.map(
        tokenizer,
        batched=True,
        num_proc=number if number > 1 else None,
        remove_columns=part.data.column_names,
        keep_in_memory=number <= 1,
        load_from_cache_file=False,
        new_fingerprint=key_of(
            [part.data._fingerprint, tokenizer.text.core_json, tokenizer.columns]
        ),
    )
    table = encoded.with_format("arrow")[:]
    ids = table.column(IDS).combine_chunks()
    types = table.column(TYPES).combine_chunks()
    np.save(target / "ids.npy", ids.flatten().to_numpy().astype(np.int32))
    np.save(target / "types.npy", types.flatten().to_numpy().astype(np.int8))
    lengths = ids.value_lengths().to_numpy()
    np.save(target / "bounds.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _require_boundaries(tokenizer: PreTrainedTokenizerFast) -> None:
    start, end = boundary_tokens(tokenizer)
    if start is None:
        raise ConfigError(_lacks(tokenizer, "[CLS] (cls_token), which the classifier reads"))
    if end is None:
        raise ConfigError(_lacks(tokenizer, "[SEP] (sep_token), which closes each text"))


def _lacks(tokenizer: PreTrainedTokenizerFast, what: str) -> str:
    return (
        f"the tokenizer {tokenizer.name_or_path or 'of these weights'} has no {what}: use the "
        "tokenizer that the model was trained with (tokenizer.path)"
    )
