"""Documents → token store, shard by shard, by all processes and nodes that want it.

Whoever wants a store makes the shards that nobody has made or is making: helper processes of a run
(``dataset.num_proc``), other ranks, other runs, other nodes with the same cache. A shard appears
under its name only when it is complete, so what a killed process leaves is made by the next one,
and nothing else is made again. The order of the documents is that of the source, whoever made what.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path

from filelock import FileLock, Timeout

from neobert.console import get_logger
from neobert.data.cache import key_of, publish, writing
from neobert.data.encode import end_with_parent
from neobert.data.processes import without_main
from neobert.data.sources import Documents
from neobert.data.store import (
    SHARD,
    TokenStore,
    is_complete,
    join_shards,
    shard_folder,
    write_shard,
)
from neobert.data.tokenize import tokens_of
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import RunError

log = get_logger(__name__)

VERSION = 4

SIGN_OF_LIFE = 30.0
"""Seconds between lines on how far tokenising is."""


def token_store(
    cache: Path, documents: Documents, info: TokenizerInfo, num_proc: int
) -> TokenStore:
    """The tokens of ``documents``: what the cache does not have under this tokenizer is made."""
    recipe = {**documents.key, "tokenizer": info.fingerprint, "version": VERSION, "rows": SHARD}
    store = cache / "tokens" / key_of(recipe)
    if not is_complete(store):
        work = Work(documents, info, store)
        with writing(store):
            (store / "shards").mkdir(parents=True, exist_ok=True)
            log.info("%s %s", "reading" if documents.tokenized else "tokenising", documents.name)
            work.do(num_proc)
    return TokenStore.open(store)


@dataclass(frozen=True)
class Work:
    """A store that is to be made. Can be pickled, for helper processes."""

    documents: Documents
    info: TokenizerInfo
    store: Path
    rows: int = SHARD

    def do(self, num_proc: int) -> None:
        """Make what is missing with ``num_proc`` processes, this one among them."""
        shards = self._make_with_helpers(num_proc)
        while missing := [number for number in range(shards) if not self._has(number)]:
            with self._lock(missing[0]):  # wait for the process that has it; it may have died
                pass
            self.make_missing()
        with FileLock(self.store / ".lock"):
            if not is_complete(self.store):
                join_shards(self.store, shards, self.info.vocab_size)

    def _make_with_helpers(self, num_proc: int) -> int:
        """Helpers start once the first shard shows that there is more than one."""
        helpers: list[Future[int]] = []
        with _pool(num_proc - 1) as pool:

            def start_helpers() -> None:
                if pool is not None and not helpers:
                    log.debug("tokenising in %d processes", num_proc)
                    with without_main():
                        helpers.extend(pool.submit(self.make_missing) for _ in range(num_proc - 1))
                for helper in helpers:
                    if helper.done():
                        helper.result()  # raises what went wrong there

            shards = self.make_missing(start_helpers)
            for helper in helpers:
                helper.result()
        return shards

    def make_missing(self, between: "Between | None" = None) -> int:
        """Read the documents once and make the shards that nobody has; returns how many exist.

        ``between`` is called after each shard but the last.
        """
        batches = BatchReader(self.documents, self.info)
        logged, made = time.monotonic(), 0
        for number in count():
            rows = self._make(number, batches)
            made += rows
            if rows < self.rows:
                return number + (rows > 0)
            if between is not None:
                between()
                if time.monotonic() - logged > SIGN_OF_LIFE:
                    logged = time.monotonic()
                    log.info("%s: %s documents", self.documents.name, f"{made:,}")
        raise AssertionError("unreachable")

    def _make(self, number: int, batches: "BatchReader") -> int:
        """Make a shard or pass over its documents; returns how many they are."""
        rows = 0
        if self._has(number):
            return batches.skip(self.rows)
        try:
            with self._lock(number, timeout=0):
                if self._has(number):
                    return batches.skip(self.rows)

                def make(folder: Path) -> None:
                    nonlocal rows
                    encoded = batches.take(self.rows)
                    rows = write_shard(folder, encoded, self.info.vocab_size)
                    if not rows:
                        raise NoDocuments

                publish(shard_folder(self.store, number), make)
        except Timeout:
            return batches.skip(self.rows)
        except NoDocuments:
            return 0
        return rows
