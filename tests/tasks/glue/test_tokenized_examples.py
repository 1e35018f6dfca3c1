"""Texts become ``[CLS] a [SEP] b [SEP]``, no longer than asked, whoever computes it."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from transformers import PreTrainedTokenizerFast

from neobert.errors import ConfigError
from neobert.tasks.glue import tokenized_examples as module
from neobert.tasks.glue.labels import Labelled
from neobert.tasks.glue.pair_tokenizer import PairTokenizer
from neobert.tasks.glue.tokenized_examples import tokenize
from tests.tasks.glue.conftest import SPECIAL, make_tokenizer

PAD, UNK, CLS, SEP, MASK, GOOD, BAD, FILM = range(8)


def labelled(**columns: list[object]) -> Labelled:
    data = Dataset.from_dict(columns)
    return Labelled("train", data, np.zeros(len(data)))


def test_texts_are_opened_and_closed(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    pair_tokenizer = PairTokenizer.of(tokenizer, ("a",), 8, own=True)
    found = tokenize(labelled(a=["good film", "bad", ""]), pair_tokenizer, tmp_path, 0)
    documents = [found[row].ids.tolist() for row in range(3)]
    assert documents == [[CLS, GOOD, FILM, SEP], [CLS, BAD, SEP], [CLS, SEP]]


def test_pairs_have_two_segments(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    pair_tokenizer = PairTokenizer.of(tokenizer, ("a", "b"), 8, own=True)
    found = tokenize(labelled(a=["good"], b=["bad film"]), pair_tokenizer, tmp_path, 0)
    assert found[0].ids.tolist() == [CLS, GOOD, SEP, BAD, FILM, SEP]
    assert found[0].types.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.proves("glue.max_seq_length")
@pytest.mark.parametrize("length", [5, 6, 9])
def test_the_length_is_the_one_that_is_asked_for(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, length: int
) -> None:
    pair_tokenizer = PairTokenizer.of(tokenizer, ("a", "b"), length, own=True)
    texts = labelled(a=["good film " * 9], b=["bad"])
    ids = tokenize(texts, pair_tokenizer, tmp_path, 0)[0].ids
    assert len(ids) == length
    assert ids[-2:].tolist() == [BAD, SEP]  # the longer text is cut


def test_a_special_token_in_a_text_is_text(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    pair_tokenizer = PairTokenizer.of(tokenizer, ("a",), 16, own=True)
    texts = labelled(a=["good [SEP] [MASK] film"])
    ids = tokenize(texts, pair_tokenizer, tmp_path, 0)[0].ids
    assert (ids == SEP).sum() == 1
    assert MASK not in ids


@pytest.mark.proves("glue.preprocessing_num_proc")
def test_processes_change_nothing(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "available_cores", lambda: 2)
    pair_tokenizer = PairTokenizer.of(tokenizer, ("a",), 8, own=True)
    texts = labelled(a=["good film", "bad", "the plot", "a play", "[MASK]"] * 8)
    started: list[int] = []
    real = module.in_processes

    def spy(function: PairTokenizer, tasks: Iterable[object], num_proc: int) -> Iterable[object]:
        started.append(num_proc)
        return real(function, tasks, num_proc)

    monkeypatch.setattr(module, "in_processes", spy)
    alone = tokenize(texts, pair_tokenizer, tmp_path / "one", 0)
    together = tokenize(texts, pair_tokenizer, tmp_path / "two", 2)
    assert started == [0, 2]
    np.testing.assert_array_equal(alone.ids, together.ids)
    np.testing.assert_array_equal(alone.bounds, together.bounds)


def test_ids_are_kept_and_not_made_again(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = labelled(a=["good film"])
    short = PairTokenizer.of(tokenizer, ("a",), 3, own=True)
    first = tokenize(texts, PairTokenizer.of(tokenizer, ("a",), 8, own=True), tmp_path, 0)

    def refuse(*args: object) -> None:
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_write", refuse)
        again = tokenize(texts, PairTokenizer.of(tokenizer, ("a",), 8, own=True), tmp_path, 0)
    np.testing.assert_array_equal(first.ids, again.ids)
    assert len(tokenize(texts, short, tmp_path, 0).ids) == 3  # another length, another key


@pytest.mark.parametrize(("idx", "names"), [([7, 3], [7, 3]), (["x", "y"], [0, 1]), (None, [0, 1])])
def test_examples_keep_glues_numbers(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, idx: list[object] | None, names: list[int]
) -> None:
    columns = {"a": ["good", "bad"]} | ({} if idx is None else {"idx": idx})
    pair_tokenizer = PairTokenizer.of(tokenizer, ("a",), 8, own=True)
    assert tokenize(labelled(**columns), pair_tokenizer, tmp_path, 0).names.tolist() == names


@pytest.mark.parametrize(
    ("without", "columns", "own", "said"),
    [
        ("[SEP]", ("a",), True, r"has no \[SEP\]"),
        ("[CLS]", ("a",), True, r"has no \[CLS\]"),
        ("[SEP]", ("a", "b"), False, r"has no \[SEP\] \(sep_token\), which pairs of texts need"),
    ],
)
def test_a_tokenizer_without_the_tokens_is_refused(
    without: str, columns: tuple[str, ...], own: bool, said: str
) -> None:
    lacking = make_tokenizer([token for token in SPECIAL if token != without])
    with pytest.raises(ConfigError, match=said):
        PairTokenizer.of(lacking, columns, 8, own=own)


def test_a_saved_folder_that_was_edited_is_tokenised_again(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    pair_tokenizer = PairTokenizer.of(tokenizer, ("a",), 8, own=True)

    def first_ids(folder: Path) -> list[int]:
        data = load_from_disk(str(folder))
        part = Labelled("train", data, np.zeros(len(data)))
        return tokenize(part, pair_tokenizer, tmp_path / "cache", 0)[0].ids.tolist()

    Dataset.from_dict({"a": ["good"]}).save_to_disk(str(tmp_path / "saved"))
    Dataset.from_dict({"a": ["bad!"]}).save_to_disk(str(tmp_path / "other"))
    assert first_ids(tmp_path / "saved") == [CLS, GOOD, SEP]
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    time = arrow.stat()
    (tmp_path / "other" / arrow.name).replace(arrow)  # beside the old state.json
    os.utime(arrow, ns=(time.st_atime_ns, time.st_mtime_ns))
    assert first_ids(tmp_path / "saved")[1] == BAD
