"""Documents from wherever ``dataset.*`` says: packaged corpora, local files, the hub, streams.

A source has two splits and says whether it is indexed (a length, any order) or a stream. What
decides is the object that the loading gave, not ``dataset.streaming``: a ``save_to_disk`` folder is
indexed whatever the key says.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from neobert.config.checks import ConfigError
from neobert.config.dataset import DatasetConfig
from neobert.console import get_logger
from neobert.data.corpora import corpus_key, is_packaged, read_corpus

log = get_logger(__name__)

TEXT_COLUMNS = ("text", "sentence", "content")
EVALUATION_SPLITS = ("validation", "eval", "test", "dev")
FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".text": "text",
}
SLICE = re.compile(r"^(?P<name>[^\[]+)\[(?P<start>-?\d*)(?P<p1>%?):(?P<stop>-?\d*)(?P<p2>%?)\]$")

Texts = Callable[[], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Source:
    """Training and evaluation documents."""

    key: dict[str, object]
    """What identifies the text: part of every cache key."""

    train: Texts
    evaluation: Texts | None
    stream: IterableDataset | None = None
    """The training stream; ``None`` for indexed data, which ``train`` reads."""

    column: str = "text"
    """Column of the stream's text."""


def open_source(config: DatasetConfig, cache: Path, seed: int) -> Source:
    """The documents that the ``dataset`` section names.

    Raises ``ConfigError`` where there is nothing, no text column, or no such split.
    """
    if not config.path and is_packaged(config.name):
        name = config.name
        return Source(
            key=corpus_key(name),
            train=lambda: read_corpus(name)["train"],
            evaluation=lambda: read_corpus(name)["validation"],
        )
    loaded, origin = _load(config, cache)
    train, evaluation = _splits(loaded, config, origin, seed)
    column = _text_column(train, config.text_column, origin)
    if isinstance(train, IterableDataset):
        return _stream_source(train, evaluation, config, origin, column)
    assert isinstance(train, Dataset)
    return Source(
        key={"source": origin, "fingerprint": train._fingerprint, "column": column},
        train=lambda: _column(train, column),
        evaluation=None if evaluation is None else (lambda: _column(evaluation, column)),
    )


def _load(
    config: DatasetConfig, cache: Path
) -> tuple[Dataset | DatasetDict | IterableDataset | IterableDatasetDict, str]:
    if config.path:
        path = Path(config.path).expanduser()
        if not path.exists():
            raise ConfigError([f"dataset.path={config.path}: there is no such file or folder"])
        return _load_local(path, config, cache), str(path)
    if config.name == "local":
        raise ConfigError(["dataset=local needs dataset.path=FILE_OR_FOLDER"])
    extra = {"trust_remote_code": True} if config.trust_remote_code else {}
    try:
        loaded = datasets.load_dataset(
            config.name,
            config.config,
            streaming=config.streaming,
            cache_dir=str(cache / "hub"),
            **extra,
        )
    except Exception as error:  # the hub's client raises dozens of kinds
        raise ConfigError(
            [
                f"dataset.name={config.name} could not be loaded from the hub "
                f"({type(error).__name__}: {str(error).splitlines()[0]}); packaged corpora need no "
                "network (dataset=factbook), and dataset=local dataset.path=… reads your own files"
            ]
        ) from error
    name = config.name if config.config is None else f"{config.name}/{config.config}"
    return loaded, name


def _load_local(
    path: Path, config: DatasetConfig, cache: Path
) -> Dataset | DatasetDict | IterableDataset | IterableDatasetDict:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return datasets.load_from_disk(str(path))
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    kinds = {FORMATS[one.suffix.lower()] for one in files if one.suffix.lower() in FORMATS}
    if len(kinds) != 1:
        found = ", ".join(sorted({one.suffix or one.name for one in files})) or "nothing"
        raise ConfigError(
            [
                f"dataset.path={path}: holds {found}; one of {', '.join(sorted(FORMATS))} is "
                "needed, one kind in a folder"
            ]
        )
    (kind,) = kinds
    chosen = [str(one) for one in files if FORMATS.get(one.suffix.lower()) == kind]
    options = {"sep": "\t"} if chosen[0].endswith(".tsv") else {}
    try:
        return datasets.load_dataset(
            kind,
            data_files=_by_split(chosen),
            streaming=config.streaming,
            cache_dir=str(cache / "files"),
            **options,
        )
    except Exception as error:  # pyarrow, pandas and json each have their own
        raise ConfigError(
            [f"dataset.path={path}: could not be read as {kind} ({error})"]
        ) from error


def _by_split(files: list[str]) -> dict[str, list[str]]:
    """Files called ``validation*``, ``test*`` … are that split, all others are for training."""
    found: dict[str, list[str]] = {}
    for file in files:
        stem = Path(file).stem.lower()
        split = next((one for one in EVALUATION_SPLITS if stem.startswith(one)), "train")
        found.setdefault(split, []).append(file)
    if "train" not in found:
        return {"train": files}
    return found


def _splits(
    loaded: Dataset | DatasetDict | IterableDataset | IterableDatasetDict,
    config: DatasetConfig,
    origin: str,
    seed: int,
) -> tuple[Dataset | IterableDataset, Dataset | IterableDataset | None]:
    """Training and evaluation data: named splits, a fraction, or the head of the training data."""
    if isinstance(loaded, Dataset | IterableDataset):
        parts: dict[str, Dataset | IterableDataset] = {"train": loaded}
    else:
        parts = {str(name): part for name, part in loaded.items()}
    train_name = config.train_split or "train"
    train = _split(parts, train_name, "train_split", origin)
    evaluation = None
    if config.eval_split is not None:
        evaluation = _split(parts, config.eval_split, "eval_split", origin)
    elif config.validation_split is not None and isinstance(train, Dataset):
        halves = train.train_test_split(test_size=config.validation_split, seed=seed)
        return halves["train"], halves["test"]
    else:
        used = train_name.partition("[")[0]
        name = next((one for one in EVALUATION_SPLITS if one in parts and one != used), None)
        evaluation = None if name is None else parts[name]
        if config.validation_split is not None:
            log.warning("dataset.validation_split: a stream takes dataset.eval_samples instead")
    if evaluation is None and config.eval_samples is not None:
        return _head_split(train, config.eval_samples, origin)
    if evaluation is not None and config.eval_samples is not None:
        evaluation = evaluation.take(config.eval_samples)
    return train, evaluation


def _head_split(
    train: Dataset | IterableDataset, samples: int, origin: str
) -> tuple[Dataset | IterableDataset, Dataset | IterableDataset]:
    if isinstance(train, Dataset):
        if len(train) < 2:
            raise ConfigError([f"dataset.eval_samples: {origin} has only {len(train)} documents"])
        if samples >= len(train):
            log.warning("dataset.eval_samples: lowered to %d, one document is left", len(train) - 1)
            samples = len(train) - 1
    return train.skip(samples), train.take(samples)


def _split(
    parts: dict[str, Dataset | IterableDataset], wanted: str, key: str, origin: str
) -> Dataset | IterableDataset:
    """A split by its name, sliced if the name says so: ``train[1000:]``, ``train[:5%]``."""
    sliced = SLICE.match(wanted)
    name = sliced["name"] if sliced else wanted
    if name not in parts:
        there = ", ".join(parts)
        raise ConfigError([f"dataset.{key}={wanted}: {origin} has the splits {there}"])
    part = parts[name]
    if sliced is None:
        return part
    if isinstance(part, IterableDataset):
        return _sliced_stream(part, sliced, wanted, key)
    start = _edge(sliced["start"], sliced["p1"], len(part))
    stop = _edge(sliced["stop"], sliced["p2"], len(part))
    chosen = range(len(part))[start:stop]
    if not chosen:
        raise ConfigError([f"dataset.{key}={wanted}: is empty, there are {len(part)} documents"])
    return part.select(chosen)


def _sliced_stream(
    part: IterableDataset, sliced: re.Match[str], wanted: str, key: str
) -> IterableDataset:
    if sliced["p1"] or sliced["p2"] or "-" in sliced["start"] + sliced["stop"]:
        raise ConfigError(
            [f"dataset.{key}={wanted}: percent slicing needs a length, which a stream has not"]
        )
    start, stop = int(sliced["start"] or 0), sliced["stop"]
    part = part.skip(start) if start else part
    return part.take(int(stop) - start) if stop else part


def _edge(number: str, percent: str, length: int) -> int | None:
    if not number:
        return None
    return round(int(number) * length / 100) if percent else int(number)


def _text_column(data: Dataset | IterableDataset, wanted: str | None, origin: str) -> str:
    columns = data.column_names
    if columns is None:
        columns = list(next(iter(data), {}))
    if wanted is not None:
        if wanted not in columns:
            raise ConfigError(
                [f"dataset.text_column={wanted}: {origin} has the columns {', '.join(columns)}"]
            )
        return wanted
    for name in TEXT_COLUMNS:
        if name in columns:
            return name
    raise ConfigError(
        [
            f"dataset.text_column: {origin} has none of {', '.join(TEXT_COLUMNS)}; its columns are "
            f"{', '.join(columns) or 'none'}"
        ]
    )


def _stream_source(
    train: IterableDataset,
    evaluation: Dataset | IterableDataset | None,
    config: DatasetConfig,
    origin: str,
    column: str,
) -> Source:
    key: dict[str, object] = {
        "stream": origin,
        "train_split": config.train_split,
        "eval_split": config.eval_split,
        "eval_samples": config.eval_samples,
        "column": column,
    }
    return Source(
        key=key,
        train=lambda: _column(train, column),
        evaluation=None if evaluation is None else (lambda: _column(evaluation, column)),
        stream=train,
        column=column,
    )


def _column(data: Dataset | IterableDataset, column: str) -> Iterator[str]:
    """The texts; what is no text (null) counts as an empty document."""
    for row in data.select_columns([column]):
        text = row[column]
        yield text if isinstance(text, str) else ""


def digest_of(texts: Iterable[str]) -> str:
    """SHA-256 of documents in their order."""
    running = sha256()
    for text in texts:
        running.update(f"{len(text)}:".encode())
        running.update(text.encode())
    return running.hexdigest()
