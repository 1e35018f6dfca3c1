"""From texts to ids: ``[CLS] a [SEP]`` and ``[CLS] a [SEP] b [SEP]``, cut to length, cached."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from neobert.config.checks import ConfigError
from neobert.data.cache import key_of, publish
from neobert.data.tokenizer import text_tokenizer
from neobert.tasks.glue.batch import Examples
from neobert.tasks.glue.labels import Labelled

VERSION = 1
ROWS_PER_PROCESS = 20_000
"""Fewer are tokenised faster than a process starts."""

IDS, TYPES = "input_ids", "token_type_ids"
NUMBER = "idx"


@dataclass(frozen=True, slots=True)
class Encoder:
    """Turns rows of texts into ids. Plain data, so that it can go to another process."""

    core: str
    """The fast tokenizer with its length, as JSON."""

    columns: tuple[str, ...]

    def __call__(self, rows: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        """Ids and segments of the rows. Pairs that are too long lose from their longer text."""
        texts = [rows[column] for column in self.columns]
        pairs = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
        core = Tokenizer.from_str(self.core)
        core.encode_special_tokens = True  # "[SEP]" in a text is text; not part of the JSON
        found = core.encode_batch(pairs)
        return {IDS: [one.ids for one in found], TYPES: [one.type_ids for one in found]}


def build_encoder(
    tokenizer: PreTrainedTokenizerFast, columns: tuple[str, ...], max_length: int, own: bool
) -> Encoder:
    """``own``: our models, whose documents always open with [CLS] and close with [SEP].

    Models of the hub keep the form that their tokenizer gives. Raises ``ConfigError`` where the
    tokenizer lacks what the form needs.
    """
    core = text_tokenizer(tokenizer)
    if own:
        core.post_processor = _bert_form(tokenizer)
    elif len(columns) == 2 and tokenizer.sep_token is None:
        raise ConfigError(_lacks(tokenizer, "[SEP] (sep_token), which pairs of texts need"))
    core.enable_truncation(max_length, strategy="longest_first")
    return Encoder(core.to_str(), columns)


def tokenize(part: Labelled, encoder: Encoder, cache: Path, processes: int) -> Examples:
    """The examples of a split; ids are kept in ``cache`` under a key of texts and tokenizer."""
    recipe = {
        "data": part.data._fingerprint,
        "tokenizer": sha256(encoder.core.encode()).hexdigest(),
        "columns": encoder.columns,
        "version": VERSION,
    }
    folder = cache / "glue" / key_of(recipe)

    def make(target: Path) -> None:
        _write(part, encoder, processes, target)

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
    return np.array(part.data[NUMBER], dtype=np.int64)


def _write(part: Labelled, encoder: Encoder, processes: int, target: Path) -> None:
    number = min(processes, len(part.data) // ROWS_PER_PROCESS)
    encoded = part.data.map(
        encoder,
        batched=True,
        num_proc=number if number > 1 else None,
        remove_columns=part.data.column_names,
        keep_in_memory=number <= 1,
        load_from_cache_file=False,
        new_fingerprint=key_of([part.data._fingerprint, encoder.core, encoder.columns]),
    )
    table = encoded.with_format("arrow")[:]
    ids = table.column(IDS).combine_chunks()
    types = table.column(TYPES).combine_chunks()
    np.save(target / "ids.npy", ids.flatten().to_numpy().astype(np.int32))
    np.save(target / "types.npy", types.flatten().to_numpy().astype(np.int8))
    lengths = ids.value_lengths().to_numpy()
    np.save(target / "bounds.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _bert_form(tokenizer: PreTrainedTokenizerFast) -> processors.TemplateProcessing:
    start = tokenizer.cls_token or tokenizer.bos_token
    end = tokenizer.sep_token or tokenizer.eos_token
    if start is None:
        raise ConfigError(_lacks(tokenizer, "[CLS] (cls_token), which the classifier reads"))
    if end is None:
        raise ConfigError(_lacks(tokenizer, "[SEP] (sep_token), which closes each text"))
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in {start, end}]
    return processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=special,
    )


def _lacks(tokenizer: PreTrainedTokenizerFast, what: str) -> str:
    return (
        f"the tokenizer {tokenizer.name_or_path or 'of these weights'} has no {what}: use the "
        "tokenizer that the model was trained with (tokenizer.path)"
    )
