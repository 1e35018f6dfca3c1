"""Documents from wherever ``dataset.*`` says: packaged corpora, local files, the hub, streams.

A source has two splits and says whether it is indexed (a length, any order) or a stream. What
decides is the object that the loading gave, not ``dataset.streaming``: a ``save_to_disk`` folder is
indexed whatever the key says.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import chain, compress, count, islice
from pathlib import Path

import datasets
from datasets import Dataset

from neobert.config.dataset import DatasetConfig
from neobert.console import get_logger
from neobert.data.cache import file_digests, key_of
from neobert.data.loading import open_data, plain_error
from neobert.data.rows import RULES, TOKEN_COLUMN, not_text, root_column, value_at
from neobert.data.splits import Data, HoldOut, SequentialValues, split_data
from neobert.data.stream_source import StreamSource
from neobert.errors import ConfigError, RunError
from neobert.files import explaining

log = get_logger(__name__)

STREAM_SAMPLE = 2048
"""Documents of a stream whose word frequencies stand for all of it, and by which it is known
again."""

BLOCK = 4096
"""Documents whose hashes are computed at a time."""


@dataclass(frozen=True, slots=True)
class Documents:
    """A split, read from its first document to its last on each request."""

    name: str
    """What the user calls it."""

    key: dict[str, object]
    """What identifies the text: part of every cache key."""

    read: Callable[[], Iterable[object]]
    """Values of the column; reading may raise anything. Can be pickled, for loader processes."""

    explain: Callable[[BaseException], ConfigError | RunError] = plain_error
    """Makes an error with the origin in its message of what reading raises."""

    tokenized: bool = False
    """The values are lists of ids, not texts."""

    where: Callable[[int], str | None] | None = None
    """File and row of a document by its number, where they can be found, for messages."""

    def place_of(self, row: int) -> str:
        """What messages call a document."""
        place = None if self.where is None else self.where(row)
        return place or f"{self.name}: row {row}"

    def texts(self) -> Iterator[str]:
        """The texts; null counts as an empty one. Anything else is an error that names its row."""
        for row, value in enumerate(self._values()):
            if not isinstance(value, str | None):
                raise not_text(f"{self.name}: row {row}", value, "dataset.text_column")
            yield value or ""

    def ids(self) -> Iterator[Sequence[int]]:
        """The documents as ids, where they are that already."""
        for row, value in enumerate(self._values()):
            if isinstance(value, str) or not isinstance(value, Sequence):
                kind = type(value).__name__
                raise ConfigError(f"{self.place_of(row)} is no list of ids but {kind}")
            yield value

    def head(self, count: int | None) -> "Documents":
        """The first ``count`` documents; ``None``: all."""
        if count is None:
            return self
        return replace(
            self, key={**self.key, "documents": count}, read=partial(_head, self.read, count)
        )

    def known_by_text(self) -> "Documents":
        """The same with its text in the key: reads all of it."""
        running = sha256()
        for value in self._values():
            running.update(repr(value).encode("utf-8", "backslashreplace"))
        return replace(self, key={**self.key, "text": running.hexdigest()})

    def _values(self) -> Iterator[object]:
        with explaining(self.explain):  # pyarrow and the hub's client raise dozens of kinds
            yield from self.read()


@dataclass(frozen=True, slots=True)
class Source:
    """Training and evaluation documents."""

    train: Documents
    evaluation: Documents | None
    stream: StreamSource | None = None
    """The training stream; ``None`` for indexed data, which ``train`` reads."""


def open_source(config: DatasetConfig, cache: Path, seed: int) -> Source:
    """The documents that the ``dataset`` section names.

    Raises ``ConfigError`` where there is nothing, no text column, or no such split.
    """
    datasets.disable_progress_bars()
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # says it again
    opened = open_data(config, cache)
    split = split_data(opened.parts, config, opened.origin, seed)
    common: dict[str, object] = {
        "source": opened.origin,
        "column": opened.column,
        "train_split": config.train_split,
        "eval_split": config.eval_split,
        "eval_samples": config.eval_samples,
    }

    def documents(data: Data, is_held: bool) -> Documents:
        if opened.corpus is None:
            key = {**common, **_content_key(data, cache)}
        else:
            key = {**opened.corpus, "split": "validation" if is_held else "train"}
        read = partial(_values, data, opened.column)
        if split.hold_out is not None:
            key |= {"validation_split": config.validation_split, "seed": seed}
            key |= {"held": is_held} if opened.corpus is None else {}
            read = partial(_part_of, read, split.hold_out, is_held)
        return Documents(opened.origin, key, read, tokenized=opened.column == TOKEN_COLUMN)

    evaluation = split.train if split.hold_out is not None else split.evaluation
    held_out = None if evaluation is None else documents(evaluation, True)
    if not isinstance(split.train, StreamSource):
        return Source(documents(split.train, False), held_out)
    # What datasets keeps of a stream does not tell its text: it is read, each time.
    common["files"] = key_of([[str(file), file.stat().st_size] for file in opened.files])
    head = documents(split.train, False).head(STREAM_SAMPLE)
    common["first documents"] = head.known_by_text().key["text"]
    return Source(documents(split.train, False), held_out, split.train)


def _content_key(data: Data, cache: Path) -> dict[str, object]:
    """What tells one state of indexed data from another."""
    if isinstance(data, SequentialValues):
        digests = file_digests(data.files, cache)
        # Not where the files are: copied, they are the same text.
        return {"source": digests, "rows": [data.first, data.stop], "rules": RULES}
    if isinstance(data, Dataset):
        stored = [Path(file["filename"]) for file in data.cache_files]
        return {"fingerprint": data._fingerprint, "files": file_digests(stored, cache)}
    return {}


def _head(read: Callable[[], Iterable[object]], count: int) -> Iterator[object]:
    return islice(read(), count)


def _part_of(
    read: Callable[[], Iterable[object]], hold_out: HoldOut, is_held: bool
) -> Iterator[object]:
    """The documents that are held out, or the others, in their order."""
    blocks = (hold_out.holds(first, BLOCK) == is_held for first in count(0, BLOCK))
    return compress(read(), chain.from_iterable(blocks))


def _values(data: Data, column: str) -> Iterator[object]:
    if not isinstance(data, Dataset):
        yield from data
        return
    root = column if column in data.column_names else root_column(column)
    for batch in data.select_columns([root]).iter(batch_size=1000):
        if root == column:
            yield from batch[column]
        else:
            yield from (value_at({root: value}, column) for value in batch[root])
