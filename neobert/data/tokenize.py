"""Documents → token store, in several processes where there is enough to do; made once, kept.

The order of the documents is that of the source, however many processes work on them.
"""

import multiprocessing
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np

from neobert.config.checks import ConfigError
from neobert.console import get_logger
from neobert.data.cache import key_of, publish
from neobert.data.encode import encode_here, start
from neobert.data.sources import Documents
from neobert.data.store import TokenStore, write_store
from neobert.data.tokenizer import TokenizerInfo
from neobert.text_tokenizer import Encoded

log = get_logger(__name__)

Item = TypeVar("Item")

VERSION = 3
BATCH = 1000
"""Documents that are tokenised at a time."""

WORTH_PROCESSES = 16
"""Batches from which on further processes are started: each takes half a second to start."""

WAITING = 4
"""Batches that may wait for each process: bounds the memory."""


def token_store(
    cache: Path, documents: Documents, info: TokenizerInfo, num_proc: int
) -> TokenStore:
    """The tokens of ``documents``, made if the cache has none of them under this tokenizer."""
    recipe = {**documents.key, "tokenizer": info.fingerprint, "version": VERSION}
    folder = cache / "tokens" / key_of(recipe)

    def make(target: Path) -> None:
        log.info("%s %s", "reading" if documents.tokenized else "tokenising", documents.name)
        write_store(target, tokens_of(documents, info, num_proc), info.vocab_size)

    publish(folder, make)
    return TokenStore.open(folder)


def tokens_of(documents: Documents, info: TokenizerInfo, num_proc: int) -> Iterator[Encoded]:
    """Batches of documents as ids: tokenised, or checked where they are ids already."""
    if documents.tokenized:
        return checked_ids(documents.ids(), info, documents.name)
    return tokenized(documents.texts(), info, num_proc)


def tokenized(texts: Iterable[str], info: TokenizerInfo, num_proc: int) -> Iterator[Encoded]:
    """Ids of ``texts``, batch by batch."""
    batches = _batches(texts)
    first = list(islice(batches, WORTH_PROCESSES)) if num_proc > 1 else []
    if len(first) < WORTH_PROCESSES:
        for batch in chain(first, batches):
            yield info.text.encode(batch)
        return
    # Started afresh, not forked: a fork of a process with threads can hang.
    log.debug("tokenising in %d processes", num_proc)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_proc, context, start, (info.text,)) as pool:
        running: deque[Future[Encoded]] = deque()
        for batch in chain(first, batches):
            with _no_main():  # a task may start a process
                running.append(pool.submit(encode_here, batch))
            if len(running) > WAITING * num_proc:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


@contextmanager
def _no_main() -> Iterator[None]:
    """Processes that are started within do not run the program's main module once more.

    Else each imports all that the program has imported, and a script without a ``__main__`` guard
    starts over.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def checked_ids(
    documents: Iterable[Sequence[int]], info: TokenizerInfo, name: str
) -> Iterator[Encoded]:
    """Documents that are ids already, without the special tokens at their ends.

    Raises ``ConfigError`` at an id that the tokenizer does not have.
    """
    special = (info.start_id, info.end_id, info.pad_token_id)
    at_ends = [one for one in special if one is not None]
    done = 0
    for batch in _batches(documents):
        try:
            tokens, lengths = _end_to_end(batch)
        except (TypeError, ValueError, OverflowError) as error:  # of numpy, which names no row
            raise _no_ids(batch, done, name) from error
        if np.isin(tokens, at_ends).any():
            each = np.split(tokens, np.cumsum(lengths)[:-1])
            tokens, lengths = _end_to_end([_trimmed(ids, at_ends).tolist() for ids in each])
        wrong = np.flatnonzero((tokens < 0) | (tokens >= info.real_vocab_size))
        if len(wrong):
            row = done + int(np.searchsorted(np.cumsum(lengths), wrong[0], side="right"))
            raise ConfigError(
                f"{name}: row {row} has the id {tokens[wrong[0]]}, but the tokenizer "
                f"{info.name} has the ids 0 to {info.real_vocab_size - 1}; name the tokenizer "
                "that the data was made with (tokenizer.path)"
            )
        done += len(batch)
        yield tokens.astype(np.uint32), lengths


def _no_ids(batch: Sequence[Sequence[object]], done: int, name: str) -> ConfigError:
    odd = [
        f"{name}: row {row} holds {value!r}, which is no id"
        for row, ids in enumerate(batch, done)
        for value in ids
        if not isinstance(value, int) or abs(value) >> 62
    ]
    return ConfigError(
        *(odd[:1] or [f"{name}: the rows from {done} on hold other things than ids"])
    )


def _end_to_end(documents: Sequence[Sequence[object]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
    tokens = np.fromiter(chain.from_iterable(documents), np.int64, int(lengths.sum()))
    return tokens, lengths


def _trimmed(ids: np.ndarray, at_ends: list[int]) -> np.ndarray:
    """``ids`` without special tokens at the ends: laying out a row adds them."""
    inner = np.flatnonzero(~np.isin(ids, at_ends))
    return ids[inner[0] : inner[-1] + 1] if len(inner) else ids[:0]


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH)):
        yield batch
