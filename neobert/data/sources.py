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
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from neobert.config.checks import ConfigError
from neobert.config.dataset import DatasetConfig
from neobert.console import get_logger
from neobert.data.cache import cache_is_full, key_of
from neobert.data.corpora import corpus_key, is_packaged, read_corpus
from neobert.data.files import find_files
from neobert.data.own_code import loading_code, run_loading_code
from neobert.data.splits import split_data
from neobert.files import is_disk_full, root_cause

log = get_logger(__name__)

TEXT_COLUMNS = ("text", "sentence", "content")
REFINEDWEB = {"refinedweb": "tiiuae/falcon-refinedweb"}
"""The reference's default name of its corpus, and the corpus's id on the hub."""

TOKEN_COLUMN = "input_ids"
STREAM_SAMPLE = 2048
"""Documents of a stream whose word frequencies stand for all of it, and by which it is known
again."""

Data: TypeAlias = Dataset | IterableDataset
Loaded: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict
Explain: TypeAlias = Callable[[BaseException], ConfigError]


@dataclass(frozen=True, slots=True)
class Documents:
    """A split, read from its first document to its last each time it is asked for."""

    name: str
    """What the user calls it."""

    key: dict[str, object]
    """What identifies the text: part of every cache key."""

    read: Callable[[], Iterable[object]]
    """Values of the column; reading may raise anything. Can be pickled, for loader processes."""

    explain: Explain
    """What the user is told where reading fails."""

    tokenized: bool = False
    """The values are lists of ids, not texts."""

    def texts(self) -> Iterator[str]:
        """The texts; null counts as an empty one. Anything else is an error that names its row."""
        for row, value in enumerate(self._values()):
            yield text_of(value, f"{self.name}: row {row}")

    def ids(self) -> Iterator[Sequence[int]]:
        """The documents as ids, where they are that already."""
        for row, value in enumerate(self._values()):
            if isinstance(value, str) or not isinstance(value, Sequence):
                kind = type(value).__name__
                raise ConfigError(f"{self.name}: row {row} is no list of ids but {kind}")
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
    stream: IterableDataset | None = None
    """The training stream; ``None`` for indexed data, which ``train`` reads."""

    column: str = "text"
    """Column of the stream's documents."""


def open_source(config: DatasetConfig, cache: Path, seed: int) -> Source:
    """The documents that the ``dataset`` section names.

    Raises ``ConfigError`` where there is nothing, no text column, or no such split.
    """
    datasets.disable_progress_bars()
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # says it again
    if not config.path and is_packaged(config.name):
        return _packaged(config, seed)
    loaded, origin, explain, files = _load(config, cache)
    train, evaluation = split_data(_parts(loaded), config, origin, seed)
    try:
        columns = train.column_names or list(next(iter(train), {}))
    except Exception as error:  # the first document of a stream is read here
        raise explain(error) from error
    column = _column(columns, config.text_column, origin)
    asked: dict[str, object] = {
        "source": origin,
        "column": column,
        "train_split": config.train_split,
        "eval_split": config.eval_split,
        "eval_samples": config.eval_samples,
    }

    def documents(data: Data) -> Documents:
        key = {**asked, "fingerprint": data._fingerprint} if isinstance(data, Dataset) else asked
        read = partial(_values, data, column)
        return Documents(origin, key, read, explain, tokenized=column == TOKEN_COLUMN)

    held_out = None if evaluation is None else documents(evaluation)
    if not isinstance(train, IterableDataset):
        return Source(documents(train), held_out, None, column)
    # What datasets keeps of a stream does not tell its text: look, each time.
    asked["files"] = key_of([[str(file), file.stat().st_size] for file in files])
    asked["first documents"] = documents(train).head(STREAM_SAMPLE).known_by_text().key["text"]
    return Source(documents(train), held_out, train, column)


def text_of(value: object, where: str) -> str:
    """A text, or null as the empty one. Raises ``ConfigError`` for anything else."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise ConfigError(
        f"{where} is no text but {type(value).__name__} ({str(value)[:40]!r}); name the column "
        "of the text with dataset.text_column, or mend the row"
    )


def _packaged(config: DatasetConfig, seed: int) -> Source:
    name = config.name
    key = corpus_key(name)
    if config.train_split is not None or config.eval_split is not None:
        parts: dict[str, Data] = {
            split: Dataset.from_dict({"text": texts}) for split, texts in read_corpus(name).items()
        }
        train, evaluation = split_data(parts, config, name, seed)
        asked = [config.train_split, config.eval_split, config.eval_samples]
        key |= {"splits": asked}
        read = {"train": train, "validation": evaluation}
        kept = {
            split: Documents(
                name, {**key, "split": split}, partial(_values, data, "text"), _plain_error
            )
            for split, data in read.items()
            if data is not None
        }
        return Source(kept["train"], kept.get("validation"))
    if config.validation_split is not None:
        log.info("dataset.validation_split is not needed: %s has a split validation", name)
    train, evaluation = (
        Documents(
            name,
            {**key, "split": split},
            partial(_packaged_texts, name, split),
            _plain_error,
        )
        for split in ("train", "validation")
    )
    return Source(train, evaluation)


def _load(config: DatasetConfig, cache: Path) -> tuple[Loaded, str, Explain, list[Path]]:
    """Data, its name, how its errors are explained, and the local files it is read from."""
    if config.path:
        path = Path(config.path).expanduser()
        if not path.exists():
            raise ConfigError(f"dataset.path={config.path}: there is no such file or folder")
        return _load_local(path, config, cache)
    if config.name == "local":
        raise ConfigError("dataset=local needs dataset.path=FILE_OR_FOLDER")
    hub_id = REFINEDWEB.get(config.name, config.name)
    try:
        loaded = datasets.load_dataset(
            hub_id, config.config, streaming=config.streaming, cache_dir=str(cache / "hub")
        )
    except Exception as error:  # the hub's client raises dozens of kinds
        if is_disk_full(error):
            raise cache_is_full(error) from error
        if "script" in str(error):
            raise ConfigError(
                f"dataset.name={config.name} comes with loading code, which datasets no longer "
                "runs: download its repository, read the code, then dataset.path=FOLDER "
                "dataset.trust_remote_code=true"
            ) from error
        raise ConfigError(
            f"dataset.name={config.name} could not be loaded from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); packaged corpora need no "
            "network (dataset=factbook), and dataset=local dataset.path=… reads your own files"
        ) from error
    name = config.name if config.config is None else f"{config.name}/{config.config}"
    return loaded, name, _plain_error, []


def _load_local(
    path: Path, config: DatasetConfig, cache: Path
) -> tuple[Loaded, str, Explain, list[Path]]:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        try:
            return datasets.load_from_disk(str(path)), str(path), _plain_error, []
        except Exception as error:  # pyarrow's, and whatever a damaged JSON file leads to
            raise ConfigError(
                f"dataset.path={path}: this save_to_disk folder is damaged ({root_cause(error)})"
            ) from error
    script = loading_code(path)
    if script is not None:
        return run_loading_code(script, config, cache), str(path), _plain_error, [script]
    files = find_files(path)
    try:
        return files.load(config.streaming, cache), str(path), files.explain, files.files
    except Exception as error:  # pyarrow, pandas and json each have their own
        raise files.explain(error) from error


def _parts(loaded: Loaded) -> dict[str, Data]:
    if isinstance(loaded, Dataset | IterableDataset):
        return {"train": loaded}
    return {str(name): part for name, part in loaded.items()}


def _plain_error(error: BaseException) -> ConfigError:
    if is_disk_full(error):
        return cache_is_full(error)
    return ConfigError(f"dataset: reading failed ({type(error).__name__}: {root_cause(error)})")


def _column(columns: list[str], wanted: str | None, origin: str) -> str:
    """Column of the documents: the one asked for, ids if there are any, else the text."""
    if wanted is not None:
        if wanted not in columns:
            raise ConfigError(
                f"dataset.text_column={wanted}: {origin} has the columns {', '.join(columns)}"
            )
        return wanted
    for name in (TOKEN_COLUMN, *TEXT_COLUMNS):
        if name in columns:
            return name
    raise ConfigError(
        f"dataset.text_column: {origin} has none of {', '.join(TEXT_COLUMNS)}; its columns are "
        f"{', '.join(columns) or 'none'}"
    )


def _head(read: Callable[[], Iterable[object]], count: int) -> Iterator[object]:
    return islice(read(), count)


def _packaged_texts(name: str, split: str) -> list[str]:
    return read_corpus(name)[split]


def _values(data: Data, column: str) -> Iterator[object]:
    for batch in data.select_columns([column]).iter(batch_size=1000):
        yield from batch[column]
