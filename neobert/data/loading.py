"""Data from where ``dataset.*`` says: packages, files, Arrow folders, loading code, the hub."""

import importlib.util
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import datasets
from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    GeneratorBasedBuilder,
    IterableDataset,
    IterableDatasetDict,
)
from datasets.builder import ArrowBasedBuilder
from datasets.iterable_dataset import ExamplesIterable

from neobert.config.dataset import DatasetConfig
from neobert.data.cache import cache_is_full, file_digests, key_of
from neobert.data.corpora import CORPORA, corpus_key, corpus_texts, read_corpus
from neobert.data.data_files import DataFiles, find_files, log_splits
from neobert.data.file_parts import FINE_PARTS, FilePart, split_files
from neobert.data.rows import (
    DOCUMENTS,
    FORMATS,
    TOKEN_COLUMN,
    format_of,
    iter_values,
    row_columns,
    rows_before,
    text_column,
    value_at,
)
from neobert.data.splits import EVALUATION_SPLITS, Data, SequentialValues
from neobert.data.stream_source import StreamSource
from neobert.errors import ConfigError, RunError
from neobert.files import (
    explaining,
    first_line,
    is_disk_full,
    reading,
    root_cause,
    user_path,
)

REFINEDWEB = {"refinedweb": "tiiuae/falcon-refinedweb"}
"""The reference's default name of its corpus, and the corpus's id on the hub."""

ABSTRACT = (DatasetBuilder, GeneratorBasedBuilder, ArrowBasedBuilder)

DEFAULT_READERS = 64
"""Of a stream, where ``dataset.stream_readers`` sets none."""

Loaded: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict


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

    column: str
    """Column of the documents."""

    parts: Mapping[str, Data]
    """By their splits."""

    files: Sequence[Path] = ()
    """Local files of a stream."""

    corpus: Mapping[str, object] | None = None
    """What identifies the text of a packaged corpus."""


def open_data(config: DatasetConfig, cache: Path) -> OpenedData:
    """The data that ``dataset.path``, or else ``dataset.name``, names.

    Raises ``ConfigError`` where there is nothing, or no column of documents.
    """
    if not config.path:
        return _of_package(config) if config.name in CORPORA else _of_hub(config, cache)
    path = _subset(config)
    if is_saved(path):
        return _of_datasets(load_saved(path), str(path), config)
    script = loading_code(path)
    if script is not None:
        loaded = run_loading_code(script, config, cache)
        return _of_datasets(loaded, str(path), config, [script])
    return _of_files(find_files(path, "dataset.path", DOCUMENTS), config)


def document_column(columns: Collection[str], config: DatasetConfig, origin: str) -> str:
    """Column of the documents: the one that is set, ids if there are any, else the text."""
    if config.text_column is None and TOKEN_COLUMN in columns:
        return TOKEN_COLUMN
    return text_column(columns, config.text_column, "dataset.text_column", origin)


def no_subset(config: str, path: Path) -> ConfigError:
    """The error for a ``dataset.config`` that no folder at ``path`` has the name of."""
    return ConfigError(
        f"dataset.config={config}: {path} has no folder of that name; null reads all"
    )


def _subset(config: DatasetConfig) -> Path:
    """``dataset.path``, or its folder of the name ``dataset.config``."""
    path = user_path(config.path)
    if config.config is None or loading_code(path) is not None:
        return path
    if not (path / config.config).is_dir():
        raise no_subset(config.config, path)
    return path / config.config


def _of_package(config: DatasetConfig) -> OpenedData:
    """The splits of a packaged corpus, in memory only where slices of them are set."""
    name, known = config.name, corpus_key(config.name)
    column = document_column(["text"], config, name)
    if config.config is not None:
        raise ConfigError(f"dataset.config={config.config}: {name} has no configurations")
    parts: dict[str, Data]
    if config.train_split is None and config.eval_split is None:
        splits = ("train", "validation")
        parts = {split: SequentialValues(partial(corpus_texts, name, split)) for split in splits}
    else:
        known["splits"] = [config.train_split, config.eval_split, config.eval_samples]
        parts = {
            split: Dataset.from_dict({column: texts}) for split, texts in read_corpus(name).items()
        }
    return OpenedData(name, column, parts, corpus=known)


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
    column = document_column(columns, config, data.origin)
    readers = config.stream_readers or DEFAULT_READERS
    parts: dict[str, Data] = {
        name: _file_stream(files, column, readers)
        if config.streaming
        else SequentialValues(partial(documents_of, files, column), tuple(files))
        for name, files in splits.items()
    }
    return OpenedData(data.origin, column, parts, [file.path for file in data.files])


def documents_of(files: Iterable[Path], column: str, span: range | None = None) -> Iterator[object]:
    """The documents in a column of local files: texts or null, or of the column of ids anything.

    ``span`` as of :func:`~neobert.data.rows.iter_rows`.
    """
    text_key = None if column == TOKEN_COLUMN else "dataset.text_column"
    return iter_values(files, "dataset.path", column, text_key, span)


def _file_stream(files: Sequence[Path], column: str, readers: int) -> StreamSource:
    """The documents of files as a stream, each file a shard; parts of files where ``readers`` would
    have to share them."""
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
                before = rows_before(path, "dataset.path", span)
                return f"dataset.path: {path}: row {number + before}"
    return None


def _examples(parts: list[FilePart], column: str) -> Iterator[tuple[int, dict[str, object]]]:
    values = (value for part in parts for value in documents_of([part.path], column, part.span))
    return ((number, {column: value}) for number, value in enumerate(values))


def _of_datasets(
    loaded: Loaded | Mapping[str, Dataset],
    origin: str,
    config: DatasetConfig,
    files: Sequence[Path] = (),
) -> OpenedData:
    """What ``datasets`` loaded; the first document tells the columns of a stream without schema."""
    single = isinstance(loaded, Dataset | IterableDataset)
    splits: dict[str, Dataset | IterableDataset] = (
        {"train": loaded} if single else {str(name): part for name, part in loaded.items()}
    )
    first = next(iter(splits.values()))
    with explaining(plain_error):  # the first document of a stream is read here
        columns = first.column_names or list(next(iter(first), {}))
    column = document_column(columns, config, origin)
    parts: dict[str, Data] = {}
    for name, part in splits.items():
        if isinstance(part, Dataset):
            parts[name] = part
        elif column in columns:
            parts[name] = StreamSource(part, column)
        else:  # a nested column of a stream, whose documents are rows
            parts[name] = StreamSource(part.map(partial(_with_value, path=column)), column)
    return OpenedData(origin, column, parts, files)


def _with_value(row: dict[str, object], path: str) -> dict[str, object]:
    return {path: value_at(row, path)}


def is_saved(path: Path) -> bool:
    """Whether ``save_to_disk`` of ``datasets`` wrote the folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def load_saved(path: Path) -> dict[str, Dataset]:
    """The splits in a ``save_to_disk`` folder. Raises ``ConfigError`` where it is damaged."""
    problem = f"dataset.path={path}: this save_to_disk folder is damaged"
    # Errors of pyarrow, and whatever a damaged JSON file leads to.
    with explaining(lambda error: ConfigError(f"{problem} ({root_cause(error)})")):
        saved = datasets.load_from_disk(str(path))
    if isinstance(saved, Dataset):
        return {"train": saved}
    return {str(name): part for name, part in saved.items()}


def loading_code(path: Path) -> Path | None:
    """The script of a folder that has one: ``corpus/corpus.py``."""
    script = path / f"{path.name}.py"
    return script if script.is_file() else None


def run_loading_code(script: Path, config: DatasetConfig, cache: Path) -> Loaded:
    """The splits that the script's ``DatasetBuilder`` makes.

    ``datasets`` ran such code itself up to version 3. It is foreign code with this process's
    rights: raises ``ConfigError`` unless ``dataset.trust_remote_code`` is set.
    """
    if not config.trust_remote_code:
        raise ConfigError(
            f"{script} is loading code of the data set itself: read it, then allow it to run "
            "with dataset.trust_remote_code=true"
        )
    # The script and what it may read: datasets keeps what it made of them under this hash.
    files = (path for path in script.parent.rglob("*") if path.is_file())
    beside = sorted(path for path in files if path.parent.name != "__pycache__")
    builder = _builder_class(script)(
        cache_dir=str(cache / "code"),
        config_name=config.config,
        base_path=str(script.parent),
        hash=key_of(file_digests(beside, cache)),
    )
    if config.streaming:
        return builder.as_streaming_dataset()
    builder.download_and_prepare()
    return builder.as_dataset()


def _builder_class(script: Path) -> type[DatasetBuilder]:
    spec = importlib.util.spec_from_file_location(f"neobert_corpus_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where datasets looks for the builder's module
    with reading(script, "dataset.path"):
        spec.loader.exec_module(module)
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, DatasetBuilder) and value not in ABSTRACT
    ]
    if len(classes) != 1:
        raise ConfigError(f"{script}: defines {len(classes)} classes of DatasetBuilder, not one")
    return classes[0]


def _of_hub(config: DatasetConfig, cache: Path) -> OpenedData:
    if config.name == "local":
        raise ConfigError("dataset=local needs dataset.path=FILE_OR_FOLDER")
    hub_id = REFINEDWEB.get(config.name, config.name)
    with explaining(partial(_not_loaded, config.name)):
        loaded = datasets.load_dataset(
            hub_id, config.config, streaming=config.streaming, cache_dir=str(cache / "hub")
        )
    name = config.name if config.config is None else f"{config.name}/{config.config}"
    return _of_datasets(loaded, name, config)


def _not_loaded(name: str, error: BaseException) -> ConfigError | RunError:
    """The error for a data set of the hub; the hub's client raises dozens of kinds."""
    if is_disk_full(error):
        return cache_is_full(error)
    if "script" in str(error):
        return ConfigError(
            f"dataset.name={name} comes with loading code, which datasets no longer "
            "runs: download its repository, read the code, then dataset.path=FOLDER "
            "dataset.trust_remote_code=true"
        )
    return ConfigError(
        f"dataset.name={name} could not be loaded from the hub "
        f"({type(error).__name__}: {first_line(error)}); packaged corpora need no "
        "network (dataset=factbook), and dataset=local dataset.path=… reads your own files"
    )
