import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from neobert.config.checks import ConfigError
from neobert.data import tokenize
from neobert.data.sources import Documents
from neobert.data.tokenize import checked_ids, token_store, tokenized
from neobert.data.tokenizer import TokenizerInfo


def documents(values: Iterable[object], tokenized: bool = False) -> Documents:
    kept = list(values)
    return Documents("mine", {"mine": 1}, lambda: kept, lambda e: ConfigError(str(e)), tokenized)


def joined(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[list[int], list[int]]:
    tokens, lengths = zip(*batches, strict=True)
    return np.concatenate(tokens).tolist(), np.concatenate(lengths).tolist()


@pytest.mark.proves("dataset.num_proc")
def test_several_processes_give_what_one_gives(
    info: TokenizerInfo,
    make_texts: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tokenize, "BATCH", 10)
    texts = [f"{text} [MASK]" for text in make_texts(10 * tokenize.WORTH_PROCESSES + 25)]
    alone = joined(tokenized(texts, info, 1))
    with caplog.at_level("DEBUG", logger="neobert"):
        assert joined(tokenized(texts, info, 2)) == alone
    assert "2 processes" in caplog.text
    assert not {info.mask_token_id, info.start_id} & set(alone[0])  # written in a text, it is text


def test_a_few_documents_start_no_processes(
    info: TokenizerInfo, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", logger="neobert"):
        tokens, lengths = joined(tokenized(["river oil", ""], info, 2))
    assert lengths[1] == 0
    assert len(tokens) == lengths[0]
    assert "processes" not in caplog.text


def test_tokens_are_made_once(info: TokenizerInfo, tmp_path: Path) -> None:
    first = token_store(tmp_path, documents(["river oil", "coal"]), info, 1)

    def fail() -> Iterable[object]:
        raise AssertionError("read again")

    again = Documents("mine", {"mine": 1}, fail, lambda e: ConfigError(str(e)))
    assert token_store(tmp_path, again, info, 1).info == first.info


def test_a_document_of_ten_megabytes_is_a_document(info: TokenizerInfo, tmp_path: Path) -> None:
    word = "z" * 99 + " "  # no such word: one token
    store = token_store(tmp_path, documents([word * 100_000, "coal"]), info, 1)
    assert store.lengths[0] == 100_000
    assert store.document(1).tolist() == joined(tokenized(["coal"], info, 1))[0]


def test_ids_lose_the_special_tokens_at_their_ends(info: TokenizerInfo) -> None:
    start, end, pad = info.start_id, info.end_id, info.pad_token_id
    rows = [[start, 9, 10, end, pad, pad], [11], [start, end], []]
    assert joined(checked_ids(rows, info, "mine")) == ([9, 10, 11], [2, 1, 0, 0])


@pytest.mark.parametrize("wrong", [-1, 100_000])
def test_an_id_outside_the_vocabulary_is_named_by_its_row(info: TokenizerInfo, wrong: int) -> None:
    with pytest.raises(ConfigError, match=rf"mine: row 2 has the id {wrong}, .*tokenizer\.path"):
        joined(checked_ids([[9], [10, 11], [12, wrong]], info, "mine"))


@pytest.mark.parametrize("odd", [None, "river", 1 << 70, [1]])
def test_what_is_no_id_is_named_by_its_row(
    info: TokenizerInfo, tmp_path: Path, odd: object
) -> None:
    with pytest.raises(ConfigError, match=r": row 1 holds .*, which is no id"):
        token_store(tmp_path, documents([[9], [10, odd]], tokenized=True), info, 1)


def test_a_text_among_ids_is_named_by_its_row(info: TokenizerInfo, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="row 1 is no list of ids but str"):
        token_store(tmp_path, documents([[9, 10], "river"], tokenized=True), info, 1)


SCRIPT = """
from neobert.data import tokenize
from neobert.data.tokenizer import describe
from neobert.data.wordpiece import train_wordpiece

print("started")
tokenize.BATCH = 10
texts = ["river oil"] * 400
info = describe(train_wordpiece(lambda: texts, 64), "tiny")
print(sum(len(lengths) for _, lengths in tokenize.tokenized(texts, info, 2)))
"""


def test_a_script_without_a_guard_is_not_started_over(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["started", "400"]
