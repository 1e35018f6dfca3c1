"""Data from where ``dataset.*`` says: files, ``save_to_disk`` folders, loading code, the hub."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from datasets.iterable_dataset import ExamplesIterable

from neobert.config.dataset import DatasetConfig
from neobert.data.cache import cache_is_full
from neobert.data.data_files import DataFiles, find_files, log_splits
from neobert.data.file_parts import FINE_PARTS, FilePart, split_files
from neobert.data.own_code import loading_code, run_loading_code
from neobert.data.rows import (
    DOCUMENTS,
    FORMATS,
    format_of,
    iter_rows,
    row_columns,
    value_at,
)
from neobert.data.splits import EVALUATION_SPLITS, Data, FileValues, documents_of
from neobert.data.stream_source import StreamSource
from neobert.errors import ConfigError, RunError
from neobert.files import is_disk_full, root_cause, user_path

REFINEDWEB = {"refinedweb": "tiiuae/falcon-refinedweb"}
"""The reference's default name of its corpus, and the corpus's id on the hub."""

DEFAULT_READERS = 64
"""Of a stream, where ``dataset.stream_readers`` sets none."""

Loaded: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict
Explain: TypeAlias = Callable[[BaseException], ConfigError | RunError]


def plain_error(error: BaseException) -> ConfigError | RunError:
    """The origin in error messages of ``datasets``."""
    if is_disk_full(error):
        return cache_is_full(error)
    return ConfigError(f"dataset: reading failed ({type(error).__name__}: {root_cause(error)})")


@dataclass(frozen=True, slots=True)
class OpenedData:
    """Data before it is split."""

    origin: str
    """What the user calls it."""

    columns: list[str]
    parts: Callable[[str], dict[str, Data]]
    """Column of the documents -> its splits."""

    explain: Explain
    files: list[Path]
    """Local files of a stream."""


def open_data(config: DatasetConfig, cache: Path) -> OpenedData:
    """The data that ``dataset.path``, or else ``dataset.name`` on the hub, names."""
    if not config.path:
        return _of_hub(config, cache)
    path = _subset(config)
    if is_saved(path):
        return _of_datasets(load_saved(path, "dataset.path"), str(path), [])
    script = loading_code(path)
    if script is not None:
        return _of_datasets(run_loading_code(script, config, cache), str(path), [script])
    return _of_files(find_files(path, "dataset.path", DOCUMENTS), config)


def _subset(config: DatasetConfig) -> Path:
    """``dataset.path``, or its folder of the name ``dataset.config``."""
    path = user_path(config.path)
    if config.config is None or loading_code(path) is not None:
        return path
    if not (path / config.config).is_dir():
        raise ConfigError(
            f"dataset.config={config.config}: {path} has no folder of that name; null reads all"
        )
    return path / config.config


def _of_files(data: DataFiles, config: DatasetConfig) -> OpenedData:
    kinds = {format_of(file.path) for file in data.files}
    if len(kinds) != 1:
        suffixes = sorted({"".join(file.path.suffixes) for file in data.files})
        raise ConfigError(
            f"dataset.path={data.origin}: holds {', '.join(suffixes)}; one of "
            f"{', '.join(sorted(FORMATS))} is needed, one kind in a folder"
        )
    requested = [name.partition("[")[0] for name in (config.train_split, config.eval_split) if name]
    splits = data.by_split(requested)
    used = {"train", *requested, *[name for name in EVALUATION_SPLITS if name in splits][:1]}
    if len(data.files) > 1:
        log_splits(data.origin, splits, unused=set(splits) - used)
    train = next(iter(splits.values()))
    columns = next(filter(None, (row_columns(file, "dataset.path") for file in train)), [])

    def parts(column: str) -> dict[str, Data]:
        indexed = {name: FileValues(tuple(files), column) for name, files in splits.items()}
        if not config.streaming:
            return dict(indexed)
        readers = config.stream_readers or DEFAULT_READERS
        return {name: _file_stream(part, readers) for name, part in indexed.items()}

    files = [file.path for file in data.files]
    return OpenedData(data.origin, columns, parts, plain_error, files)


def _file_stream(values: FileValues, readers: int) -> StreamSource:
    """The same values as a stream, each file a shard; parts of files where ``readers`` would have
    to share them."""
    files, column = values.files, values.column
    whole = _part_stream([FilePart(file, file.stat().st_size) for file in files], column)
    if whole.num_groups(readers) == readers:
        return whole
    split = _part_stream(split_files(files, readers), column)
    if split.num_groups(readers) == readers:
        return split
    finer = _part_stream(split_files(files, readers, FINE_PARTS), column)
    return max(split, finer, whole, key=lambda source: source.num_groups(readers))


def _part_stream(parts: list[FilePart], column: str) -> StreamSource:
    stream = IterableDataset(ExamplesIterable(_examples, {"parts": parts, "column": column}))
    find = partial(_place_of, parts, column)
    return StreamSource(stream, column, tuple(part.size for part in parts), find=find)


def _place_of(
    parts: list[FilePart], column: str, value: object, numbers: Sequence[int]
) -> str | None:
    """File and row, from 0 on, of the first document with this value in some of the parts."""
    for path, span in ((parts[number].path, parts[number].span) for number in numbers):
        for number, other in enumerate(documents_of([path], column, span)):
            if other == value:
                before = iter_rows([path], "dataset.path", (), range(span.start if span else 0))
                return f"dataset.path: {path}: row {number + sum(1 for _ in before)}"
    return None


def _examples(parts: list[FilePart], column: str) -> Iterator[tuple[int, dict[str, object]]]:
    values = (value for part in parts for value in documents_of([part.path], column, part.span))
    return ((number, {column: value}) for number, value in enumerate(values))


def _of_datasets(loaded: Loaded, origin: str, files: list[Path]) -> OpenedData:
    """What ``datasets`` loaded; the first document tells the columns of a stream without schema."""
    single = isinstance(loaded, Dataset | IterableDataset)
    parts: dict[str, Dataset | IterableDataset] = (
        {"train": loaded} if single else {str(name): part for name, part in loaded.items()}
    )
    first = next(iter(parts.values()))
    try:
        columns = first.column_names or list(next(iter(first), {}))
    except Exception as error:  # the first document of a stream is read here
        raise plain_error(error) from error

    def flat(column: str) -> dict[str, Data]:
        # A nested text column of a stream, whose documents are rows.
        nested = column not in columns
        return {
            name: StreamSource(
                part.map(partial(_with_value, path=column)) if nested else part, column
            )
            if isinstance(part, IterableDataset)
            else part
            for name, part in parts.items()
        }

    return OpenedData(origin, columns, flat, plain_error, files)


def _with_value(row: dict[str, object], path: str) -> dict[str, object]:
    return {path: value_at(row, path)}


def is_saved(path: Path) -> bool:
    """Whether ``save_to_disk`` of ``datasets`` wrote the folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def load_saved(path: Path, setting: str) -> Dataset | DatasetDict:
    """The data of a ``save_to_disk`` folder. Raises ``ConfigError`` where it is damaged."""
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:  # pyarrow's, and whatever a damaged JSON file leads to
        raise ConfigError(
            f"{setting}={path}: this save_to_disk folder is damaged ({root_cause(error)})"
        ) from error


def _of_hub(config: DatasetConfig, cache: Path) -> OpenedData:
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
    return _of_datasets(loaded, name, [])
