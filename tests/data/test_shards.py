"""A store is made shard by shard, by several processes, each shard once, whoever is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from neobert.data.shards import Preparation, token_store
from neobert.data.sources import Documents
from neobert.data.token_store import TokenStore
from neobert.data.tokenize import DocumentEncoder
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError, RunError

ROWS = 10


def plain_error(error: BaseException) -> ConfigError:
    return ConfigError(str(error))


def values(texts: list[object]) -> Iterable[object]:
    return texts


def documents(texts: Iterable[object], tokenized: bool = False) -> Documents:
    return Documents("mine", {"mine": 1}, partial(values, list(texts)), plain_error, tokenized)


def prepared(
    folder: Path, texts: Iterable[object], info: TokenizerInfo, num_proc: int = 1
) -> TokenStore:
    preparation = Preparation(documents(texts), DocumentEncoder.of(info), folder, ROWS)
    preparation.run(num_proc)
    return TokenStore.open(folder)


def contents(store: TokenStore) -> list[list[int]]:
    return [store.document(number).tolist() for number in range(store.info.documents)]


@pytest.mark.parametrize("count", [0, 1, ROWS - 1, ROWS, 3 * ROWS, 3 * ROWS + 4])
def test_documents_keep_their_order_over_shards(
    info: TokenizerInfo, make_texts: Callable[..., list[str]], tmp_path: Path, count: int
) -> None:
    texts = make_texts(count)
    store = prepared(tmp_path, texts, info)
    assert contents(store) == [info.text.encode([text])[0].tolist() for text in texts]
    assert len(list((tmp_path / "shards").glob("[0-9]*"))) == -(-count // ROWS)
    assert store.counts.sum() == store.info.tokens == sum(store.lengths)


def test_empty_documents_are_left_out_and_counted(info: TokenizerInfo, tmp_path: Path) -> None:
    texts = ["", None, *["river"] * ROWS, *[""] * ROWS, "oil"]
    store = prepared(tmp_path, texts, info)
    assert (store.info.documents, store.info.empty_documents) == (ROWS + 1, ROWS + 2)


def test_any_stretch_of_tokens_can_be_read(
    info: TokenizerInfo, make_texts: Callable[..., list[str]], tmp_path: Path
) -> None:
    store = prepared(tmp_path, make_texts(3 * ROWS), info)
    every = np.concatenate([store.document(number) for number in range(store.info.documents)])
    middle = store.offsets[ROWS]
    for first, last in ((0, len(every)), (middle - 3, middle + 3), (5, 5), (middle, middle)):
        assert store.tokens[first:last].tolist() == every[first:last].tolist()


@pytest.mark.proves("dataset.num_proc")
def test_several_processes_make_the_same_store(
    info: TokenizerInfo,
    make_texts: Callable[..., list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = [f"{text} [MASK]" for text in make_texts(400)]
    alone = prepared(tmp_path / "one", texts, info)
    slow = Documents("mine", {}, partial(slow_values, texts), plain_error)
    with caplog.at_level("DEBUG", logger="neobert"):
        Preparation(slow, DocumentEncoder.of(info), tmp_path / "two", ROWS).run(2)
    assert "2 processes" in caplog.text
    together = TokenStore.open(tmp_path / "two")
    assert together.info == alone.info
    assert contents(together) == contents(alone)
    assert not {info.mask_token_id, info.text.start_id} & set(np.flatnonzero(together.counts))


def slow_values(texts: list[str]) -> Iterator[object]:
    for number, text in enumerate(texts):
        if number % ROWS == 0:
            time.sleep(0.02)
        yield text


def test_what_a_killed_process_finished_is_not_made_again(
    info: TokenizerInfo, make_texts: Callable[..., list[str]], tmp_path: Path
) -> None:
    texts = make_texts(3 * ROWS)
    expected = prepared(tmp_path / "whole", texts, info).info

    def until(stop: int) -> Iterator[object]:
        for number, text in enumerate(texts):
            if number == stop:
                raise KeyboardInterrupt
            yield text

    broken = Documents("mine", {}, lambda: until(2 * ROWS + 5), plain_error)
    with pytest.raises(KeyboardInterrupt):
        Preparation(broken, DocumentEncoder.of(info), tmp_path / "kept", ROWS).run(1)
    kept = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("shards/*/tokens.npy")
    }
    assert len(kept) == 2
    assert not list((tmp_path / "kept" / "shards").glob(".incomplete-*"))
    assert prepared(tmp_path / "kept", texts, info).info == expected
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


PREPARE = """
import sys, time
from pathlib import Path
from neobert.data.shards import Preparation
from neobert.data.sources import Documents
from neobert.data.tokenize import DocumentEncoder
from neobert.data.tokenizer import describe_tokenizer
from neobert.data.wordpiece import train_wordpiece

def texts():
    for number in range(60):
        time.sleep(0.02)
        yield f"river oil {number}"

info = describe_tokenizer(train_wordpiece(lambda: ["river oil"], 64), "tiny")
documents = Documents("mine", {}, texts, ValueError)
Preparation(documents, DocumentEncoder.of(info), Path(sys.argv[1]), 10).run(1)
"""


def test_two_programs_share_the_work_and_one_may_be_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "store")]
    first, second = (subprocess.Popen(command) for _ in range(2))
    deadline = time.monotonic() + 60
    shards = tmp_path / "store" / "shards"
    while not list(shards.glob("[0-9]*")) and time.monotonic() < deadline and not second.poll():
        time.sleep(0.02)
    first.kill()
    first.wait()
    assert second.wait(timeout=60) == 0
    store = TokenStore.open(tmp_path / "store")
    assert store.info.documents == 60
    names = [path.name for path in shards.glob("[0-9]*")]
    assert sorted(names) == [f"{number:05d}" for number in range(6)]


def kill_helper(texts: list[str]) -> Iterator[object]:
    for number, text in enumerate(texts):
        if multiprocessing.parent_process() is not None and number == ROWS:
            os.kill(os.getpid(), signal.SIGKILL)
        if number >= ROWS:
            time.sleep(0.01)
        yield text


def test_a_killed_helper_is_one_line(info: TokenizerInfo, tmp_path: Path) -> None:
    killed = Documents("mine", {}, partial(kill_helper, ["river oil"] * 1000), plain_error)
    with pytest.raises(RunError, match=r"-9.*dataset\.num_proc"):
        Preparation(killed, DocumentEncoder.of(info), tmp_path, ROWS).run(2)


def bad_in_helper(texts: list[str]) -> Iterator[object]:
    for number, text in enumerate(texts):
        if number >= ROWS:
            time.sleep(0.01)
        yield 7 if multiprocessing.parent_process() is not None and number == 11 else text


def test_what_a_helper_finds_wrong_is_told_as_it_is(info: TokenizerInfo, tmp_path: Path) -> None:
    odd = Documents("mine", {}, partial(bad_in_helper, ["river oil"] * 1000), plain_error)
    with pytest.raises(ConfigError, match=r"mine: row 11 is "):
        Preparation(odd, DocumentEncoder.of(info), tmp_path, ROWS).run(2)


def test_tokens_in_the_cache_are_not_made_again(info: TokenizerInfo, tmp_path: Path) -> None:
    first = token_store(tmp_path, documents(["river oil", "coal"]), info, 1)

    def fail() -> Iterable[object]:
        raise AssertionError("read again")

    again = Documents("mine", {"mine": 1}, fail, plain_error)
    assert token_store(tmp_path, again, info, 1).info == first.info


def test_few_files_stay_open(
    info: TokenizerInfo, make_texts: Callable[..., list[str]], tmp_path: Path
) -> None:
    store = prepared(tmp_path, make_texts(100 * ROWS), info)
    before = len(list(Path("/proc/self/fd").iterdir()))
    contents(store)
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 64


SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from neobert.data.shards import Preparation
from neobert.data.sources import Documents
from neobert.data.token_store import TokenStore
from neobert.data.tokenize import DocumentEncoder
from neobert.data.tokenizer import describe_tokenizer
from neobert.data.wordpiece import train_wordpiece

print("started")
texts = ["river oil"] * 400
info = describe_tokenizer(train_wordpiece(partial(iter, texts), 64), "tiny")
documents = Documents("mine", {}, partial(iter, texts), ValueError)
Preparation(documents, DocumentEncoder.of(info), Path(sys.argv[1]), 10).run(2)
print(TokenStore.open(Path(sys.argv[1])).info.documents)
"""


def test_a_script_without_a_guard_is_not_started_over(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["started", "400"]
