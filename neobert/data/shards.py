"""Documents → token store, shard by shard, by all processes and nodes that want it.

Whoever wants a store makes the shards that nobody has made or is making: helper processes of a run
(``dataset.num_proc``), other ranks, other runs, other nodes with the same cache. A shard appears
under its name only when it is complete, so what a killed process leaves is made by the next one,
and nothing is made twice. The documents are in the order of the source, whoever made which shard.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from neobert.console import get_logger
from neobert.data.cache import build_cached, key_of, writing
from neobert.data.processes import end_with_parent, without_main
from neobert.data.sources import Documents
from neobert.data.token_store import (
    SHARD,
    TokenStore,
    is_complete,
    join_shards,
    shard_folder,
    write_shard,
)
from neobert.data.tokenize import DocumentEncoder, DocumentReader
from neobert.errors import ConfigError, RunError
from neobert.files import first_line

if TYPE_CHECKING:  # helper processes start without transformers and torch
    from neobert.data.tokenizer import TokenizerInfo

log = get_logger(__name__)

VERSION = 4

SIGN_OF_LIFE = 30.0
"""Seconds between two lines on the progress."""


class NoDocumentsError(Exception):
    """The shard is beyond the last document."""


def token_store(
    cache: Path, documents: Documents, info: "TokenizerInfo", num_proc: int
) -> TokenStore:
    """The tokens of ``documents``: what the cache does not have under this tokenizer is made.

    Raises ``ConfigError`` for a document that cannot be used, and ``RunError`` for a full disk or
    a helper process that was killed.
    """
    recipe = {**documents.key, "tokenizer": info.fingerprint, "version": VERSION, "rows": SHARD}
    return make_store(cache / "tokens" / key_of(recipe), documents, info, num_proc)


def make_store(
    store: Path, documents: Documents, info: "TokenizerInfo", num_proc: int
) -> TokenStore:
    """The store in this folder; what is missing of it is made, as in :func:`token_store`."""
    if not is_complete(store):
        log.info("%s %s", "reading" if documents.tokenized else "tokenising", documents.name)
        with writing(store):
            Preparation(documents, DocumentEncoder.of(info), store).run(num_proc)
    return TokenStore.open(store)


@dataclass(frozen=True, slots=True)
class Preparation:
    """The making of a token store. Plain data, so that helper processes can have it."""

    documents: Documents
    encoder: DocumentEncoder
    store: Path
    rows_per_shard: int = SHARD

    def run(self, num_proc: int) -> None:
        """Make what is missing in ``num_proc`` processes, this one among them."""
        (self.store / "shards").mkdir(parents=True, exist_ok=True)
        with _helpers(self, num_proc - 1) as (start_or_check, join):
            shards = self.make_missing(start_or_check)
            join()
        while missing := [
            number for number in range(shards) if not shard_folder(self.store, number).is_dir()
        ]:
            # Another process has it. Wait until it is done or dead, and look again.
            with FileLock(self.store / "shards" / f".{missing[0]:05d}.lock"):
                pass
            self.make_missing()
        with FileLock(self.store / ".lock"):
            if not is_complete(self.store):
                join_shards(self.store, shards, self.encoder.vocab_size)

    def make_missing(self, between: Callable[[], None] = lambda: None) -> int:
        """Read the documents once, make the shards that nobody has, return how many there are.

        ``between`` is called after each shard but the last.
        """
        reader = DocumentReader(self.documents, self.encoder)
        logged = time.monotonic()
        for number in count():
            rows = self._make(number, reader)
            if rows < self.rows_per_shard:
                return number + (rows > 0)
            between()
            if time.monotonic() - logged > SIGN_OF_LIFE:
                logged = time.monotonic()
                log.info("%s: %s documents so far", self.documents.name, f"{reader.row:,}")
        raise AssertionError("the count never ends")

    def _make(self, number: int, reader: DocumentReader) -> int:
        """Make a shard, or pass over its documents if somebody does; returns how many they are."""
        before = reader.row

        def make(folder: Path) -> None:
            if not write_shard(folder, reader.take(self.rows_per_shard), self.encoder.vocab_size):
                raise NoDocumentsError

        try:
            build_cached(shard_folder(self.store, number), make, wait=False)
        except NoDocumentsError:
            return 0
        if reader.row == before:
            reader.skip(self.rows_per_shard)
        return reader.row - before


@contextmanager
def _helpers(
    preparation: Preparation, number: int
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Two functions: one that starts the helpers, or checks them later, and one that waits."""
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
    receiver, sender = context.Pipe(duplex=False)
    helpers: list[multiprocessing.process.BaseProcess] = []

    def start_or_check() -> None:
        if helpers:
            _check(helpers, receiver)
            return
        for _ in range(number):
            helper = context.Process(target=_help, args=(preparation, sender), daemon=True)
            with without_main():
                helper.start()
            helpers.append(helper)
        if helpers:
            log.debug("tokenising in %d processes", number + 1)

    def join() -> None:
        for helper in helpers:
            helper.join()
        _check(helpers, receiver)

    try:
        yield start_or_check, join
    finally:
        for helper in helpers:
            helper.terminate()
            helper.join()
        receiver.close()
        sender.close()


def _check(helpers: list[multiprocessing.process.BaseProcess], errors: Connection) -> None:
    """Raise what went wrong in a helper."""
    if errors.poll():
        kind, problems = errors.recv()
        raise kind(*problems)
    killed = [helper.exitcode for helper in helpers if helper.exitcode]
    if killed:
        raise RunError(
            f"a tokenising process ended with {killed[0]} (-9: killed, mostly for memory): lower "
            "dataset.num_proc; what is finished is kept, and the next run continues from it"
        )


def _help(preparation: Preparation, errors: Connection) -> None:
    """Body of a helper process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    end_with_parent()
    try:
        with writing(preparation.store):
            preparation.make_missing()
    except (ConfigError, RunError) as error:
        errors.send((type(error), error.problems))
    except Exception as error:
        errors.send((RunError, [f"a tokenising process failed: {first_line(error)}"]))
