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
from neobert.data.cache import key_of
from neobert.data.corpora import corpus_key, is_packaged, read_corpus
from neobert.data.digests import file_digests
from neobert.data.loading import Explain, open_data, plain_error
from neobert.data.rows import (
    RULES,
    TOKEN_COLUMN,
    not_text,
    root_column,
    text_column,
    values_at,
)
from neobert.data.splits import Data, FileValues, HoldOut, split_data
from neobert.data.stream_source import StreamSource
from neobert.errors import ConfigError

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

    explain: Explain
    """The origin in error messages."""

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
            yield text_of(value, f"{self.name}: row {row}")

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
        values = iter(self.read())
        while True:
            try:
                value = next(values)
            except StopIteration:
                return
            except ConfigError:
                raise
            except Exception as error:  # pyarrow, pandas and the hub's client have dozens of kinds
                raise self.explain(error) from error
            yield value


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
    if not config.path and is_packaged(config.name):
        return _packaged(config, seed)
    opened = open_data(config, cache)
    column = _column(opened.columns, config.text_column, opened.origin)
    split = split_data(opened.parts(column), config, opened.origin, seed)
    key_parts: dict[str, object] = {
        "source": opened.origin,
        "column": column,
        "train_split": config.train_split,
        "eval_split": config.eval_split,
        "eval_samples": config.eval_samples,
    }

    def documents(data: Data, is_held: bool | None = None) -> Documents:
        key = {**key_parts, **_content_key(data, cache)}
        read = partial(_values, data, column)
        if split.hold_out is not None:
            key |= {"validation_split": config.validation_split, "seed": seed, "held": is_held}
            read = partial(_part_of, read, split.hold_out, bool(is_held))
        is_tokenized = column == TOKEN_COLUMN
        return Documents(opened.origin, key, read, opened.explain, is_tokenized)

    if split.hold_out is not None:
        return Source(documents(split.train, False), documents(split.train, True))
    held_out = None if split.evaluation is None else documents(split.evaluation)
    if not isinstance(split.train, StreamSource):
        return Source(documents(split.train), held_out)
    # What datasets keeps of a stream does not tell its text: it is read, each time.
    key_parts["files"] = key_of([[str(file), file.stat().st_size] for file in opened.files])
    head = documents(split.train).head(STREAM_SAMPLE)
    key_parts["first documents"] = head.known_by_text().key["text"]
    return Source(documents(split.train), held_out, split.train)


def _content_key(data: Data, cache: Path) -> dict[str, object]:
    """What tells one state of indexed data from another."""
    if isinstance(data, FileValues):
        digests = file_digests(data.files, cache)
        # Not where the files are: copied, they are the same text.
        return {"source": digests, "rows": [data.first, data.stop], "rules": RULES}
    if isinstance(data, Dataset):
        stored = [Path(file["filename"]) for file in data.cache_files]
        return {"fingerprint": data._fingerprint, "files": file_digests(stored, cache)}
    return {}


def text_of(value: object, where: str) -> str:
    """A text, or null as the empty one. Raises ``ConfigError`` for anything else."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise not_text(where, value, "dataset.text_column")


def _packaged(config: DatasetConfig, seed: int) -> Source:
    name = config.name
    key = corpus_key(name)
    _column(["text"], config.text_column, name)
    if config.config is not None:
        raise ConfigError(f"dataset.config={config.config}: {name} has no configurations")
    readers: list[Callable[[], Iterable[object]] | None]
    if config.train_split is not None or config.eval_split is not None:
        parts: dict[str, Data] = {
            split: Dataset.from_dict({"text": texts}) for split, texts in read_corpus(name).items()
        }
        split = split_data(parts, config, name, seed)
        key |= {"splits": [config.train_split, config.eval_split, config.eval_samples]}
        readers = [
            None if data is None else partial(_values, data, "text")
            for data in (split.train, split.evaluation)
        ]
        if split.hold_out is not None:  # train_split=validation, of which nothing is left
            key |= {"validation_split": config.validation_split, "seed": seed}
            whole = partial(_values, split.train, "text")
            readers = [partial(_part_of, whole, split.hold_out, held) for held in (False, True)]
    else:
        if config.validation_split is not None:
            log.info("dataset.validation_split is not needed: %s has a split validation", name)
        readers = [partial(_packaged_texts, name, part) for part in ("train", "validation")]
    train, held_out = (
        None if read is None else Documents(name, {**key, "split": part}, read, plain_error)
        for part, read in zip(("train", "validation"), readers, strict=True)
    )
    assert train is not None
    return Source(train, held_out)


def _column(columns: list[str], column: str | None, origin: str) -> str:
    """Column of the documents: the one that is set, ids if there are any, else the text."""
    if column is None and TOKEN_COLUMN in columns:
        return TOKEN_COLUMN
    return text_column(columns, column, "dataset.text_column", origin)


def _head(read: Callable[[], Iterable[object]], count: int) -> Iterator[object]:
    return islice(read(), count)


def _packaged_texts(name: str, split: str) -> list[str]:
    return read_corpus(name)[split]


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
            yield from (next(iter(values_at({root: value}, column)), None) for value in batch[root])
