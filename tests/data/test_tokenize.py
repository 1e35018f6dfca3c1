from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from neobert.data.shards import token_store
from neobert.data.sources import Documents
from neobert.data.tokenize import DocumentEncoder, checked_ids
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError


def documents(values: Iterable[object], tokenized: bool = False) -> Documents:
    kept = list(values)
    return Documents("mine", {"mine": 1}, lambda: kept, lambda e: ConfigError(str(e)), tokenized)


def joined(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[list[int], list[int]]:
    tokens, lengths = zip(*batches, strict=True)
    return np.concatenate(tokens).tolist(), np.concatenate(lengths).tolist()


def test_a_document_of_ten_megabytes_is_a_document(info: TokenizerInfo, tmp_path: Path) -> None:
    word = "z" * 99 + " "  # no such word: one token
    store = token_store(tmp_path, documents([word * 100_000, "coal"]), info, 1)
    assert store.lengths[0] == 100_000
    assert store.document(1).tolist() == info.text.encode(["coal"])[0].tolist()


def test_ids_lose_the_special_tokens_at_their_ends(info: TokenizerInfo) -> None:
    start, end, pad = info.text.start_id, info.text.end_id, info.pad_token_id
    rows = [[start, 9, 10, end, pad, pad], [11], [start, end], []]
    assert joined([checked_ids(rows, DocumentEncoder.of(info), "mine: row {}".format)]) == (
        [9, 10, 11],
        [2, 1, 0, 0],
    )


@pytest.mark.parametrize("wrong", [-1, 100_000])
def test_an_id_outside_the_vocabulary_is_named_by_its_row(info: TokenizerInfo, wrong: int) -> None:
    with pytest.raises(ConfigError, match=rf"mine: row 2 has the id {wrong}, .*tokenizer\.path"):
        checked_ids([[9], [10, 11], [12, wrong]], DocumentEncoder.of(info), "mine: row {}".format)


@pytest.mark.parametrize("odd", [None, "river", 1 << 70, [1], 1.5, "1", True])
def test_what_is_no_id_is_named_by_its_row(
    info: TokenizerInfo, tmp_path: Path, odd: object
) -> None:
    with pytest.raises(ConfigError, match=r": row 1 holds .*, which is not an id"):
        token_store(tmp_path, documents([[9], [10, odd]], tokenized=True), info, 1)


def test_a_text_among_ids_is_named_by_its_row(info: TokenizerInfo, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="row 1 is no list of ids but str"):
        token_store(tmp_path, documents([[9, 10], "river"], tokenized=True), info, 1)
