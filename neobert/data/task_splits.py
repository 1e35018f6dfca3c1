"""Where a task's splits come from: the hub, local files with the same columns, a package."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, load_dataset

from neobert.config.dataset import DatasetConfig
from neobert.console import get_logger
from neobert.data.cache import file_digests, key_of
from neobert.data.corpora import CORPORA
from neobert.data.data_files import DataFiles, find_files, log_splits, shortened
from neobert.data.loading import is_saved, load_saved, no_subset
from neobert.data.rows import (
    RULES,
    TABLES,
    TAGGED,
    format_of,
    lacks_columns,
    read_table,
    root_column,
    row_columns,
    value_at,
)
from neobert.data.splits import head_split, hold_out, named_split, sliced
from neobert.errors import ConfigError
from neobert.files import first_line, user_path

log = get_logger(__name__)

KEYS = {"train": "train_split", "validation": "eval_split", "test": "test_split"}
"""Kind of a split -> the key below ``dataset`` that names it."""

CONVERTED = "refs/convert/parquet"
"""Branch of the hub's own conversion to parquet, with a folder per configuration. For datasets
that consist of loading code, which ``datasets`` no longer runs; no fixed commit of it is known."""

REVISIONS = {
    "eriktks/conll2003": CONVERTED,
    "leondz/wnut_17": CONVERTED,
    "universal-dependencies/universal_dependencies": CONVERTED,
    "google-research-datasets/go_emotions": "add492243ff905527e67aeb8b80c082af02207c3",
    "rajpurkar/squad": "7b6d24c440a36b6815f21b70d25016731768db1f",
    "rajpurkar/squad_v2": "3ffb306f725f7d2ce8394bc1873b24868140c412",
}

INTEGER = r"^\s*[+-]?\d{1,18}\s*$"
DECIMAL = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


@dataclass(frozen=True, slots=True)
class TableTask:
    """What must be known of a task to read its splits: columns, and where the splits are."""

    texts: tuple[str, ...]
    """Columns of the inputs."""

    label_column: str
    """Column of the answers, which test splits may lack."""

    source: str
    """Dataset of the hub, or a packaged corpus."""

    config: str | None
    """Configuration of the dataset, and name of the task's folder below ``dataset.path``."""

    revision: str | None = None
    train: str = "train"
    validation: Mapping[str, str] = field(default_factory=lambda: {"validation": ""})
    """Split to evaluate on -> what its metrics' names end with."""

    test: tuple[str, ...] = ("test",)
    """Splits to predict, where they exist."""

    test_config: str | None = None
    """Configuration of the test splits, where it is not ``config``."""

    others: tuple[str, ...] = ()
    """Columns that are read where they exist: names of the rows."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The data of a task, untouched."""

    origin: str
    """For messages and records: a folder, or a dataset of the hub with its revision."""

    train: Dataset
    validation: Mapping[str, Dataset]
    """By the end of the metrics' names: ``""``, ``"_mm"``."""

    test: Mapping[str, Dataset]
    """By name of the split; what is missing is left out."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Split (``train``, ``validation``, …) -> its file, where it is one whole file."""

    def where(self, name: str) -> str:
        """For messages: the file of a split, else where the data is from and the split's name."""
        return self.files.get(name, f"{self.origin}, {name}")


def open_splits(
    task: TableTask,
    name: str,
    config: DatasetConfig,
    cache: Path,
    seed: int,
    packaged: Path | None = None,
) -> Splits:
    """Read the splits of ``task``, called ``name``; ``packaged``: its folder in a package.

    Slices (``dataset.train_split=train[:10%]``), ``validation_split`` and ``eval_samples`` work as
    in pretraining. Raises ``ConfigError`` with all that is wrong: splits that are missing, files
    that cannot be read.
    """
    reader = _reader(task, name, config, packaged, cache)
    train_split = config.train_split or task.train
    problems: list[str] = []
    train = _collect(problems, reader, train_split, "train")
    if problems and isinstance(reader, HubReader):  # it would fail again, and take its time
        raise ConfigError(*problems)
    validation = task.validation if config.eval_split is None else {config.eval_split: ""}
    parts = {
        end: _collect(problems, reader, split, "validation") for split, end in validation.items()
    }
    tests = {split: _collect(problems, reader, split, "test") for split in task.test}
    if problems:
        raise ConfigError(*problems)
    if train is None:
        raise reader.missing(train_split)
    has_evaluation = any(part is not None for part in parts.values())
    held = None if has_evaluation else _held_out(train, config, reader.origin, seed)
    if held is not None:
        train, parts, validation = held[0], {"": held[1]}, {"": ""}
    for split, end in validation.items():
        if parts.get(end) is None:
            raise reader.missing(split)
    limit = config.eval_samples
    names = {f"validation{end}": split for split, end in validation.items()}
    names |= {"train": train_split, **dict(zip(task.test, task.test, strict=True))}
    return Splits(
        origin=reader.origin,
        train=train,
        validation={
            end: part if limit is None else part.take(min(limit, len(part)))
            for end, part in parts.items()
            if part is not None
        },
        test={split: part for split, part in tests.items() if part is not None},
        files=reader.files_of(names) if held is None else {},
    )


def _collect(
    problems: list[str], reader: "LocalReader | HubReader", split: str, kind: str
) -> Dataset | None:
    """The split, or ``None`` with what is wrong with it added to ``problems``."""
    try:
        return reader.split(split, kind)
    except ConfigError as error:
        problems += [problem for problem in error.problems if problem not in problems]
        return None


def _held_out(
    train: Dataset, config: DatasetConfig, origin: str, seed: int
) -> tuple[Dataset, Dataset] | None:
    """Training and evaluation rows where no split is for evaluation, both in their order.

    The same rows as in pretraining, so above ``COUNTED`` rows a fraction is only approximate here
    too, although the number of rows is known.
    """
    if config.validation_split is not None:
        held = hold_out(train, config.validation_split, origin, seed)
        if held is None:
            return None
        is_held = held.holds(0, len(train))
        return train.select(np.flatnonzero(~is_held)), train.select(np.flatnonzero(is_held))
    if config.eval_samples is not None and config.eval_split is None:
        return head_split(train, config.eval_samples, origin)
    return None


def _reader(
    task: TableTask, name: str, config: DatasetConfig, packaged: Path | None, cache: Path
) -> "LocalReader | HubReader":
    if config.config is not None and config.config != task.config:
        log.warning(
            "dataset.config=%s has no effect: the task %s reads %s",
            config.config,
            name,
            task.config or "all of its data",
        )
    if config.path:
        places = _folder(user_path(config.path), task, name, config)
        return LocalReader(places, task, cache)
    if packaged is not None:
        return LocalReader({"": packaged}, task, cache)
    if task.source in CORPORA or task.source == "local":
        raise ConfigError(
            f"the task {name} is your own: set dataset.path to the folder of "
            "its files (train.csv, validation.csv, …), or dataset.name to an id of the hub"
        )
    return HubReader(task, cache)


def _folder(path: Path, task: TableTask, name: str, config: DatasetConfig) -> dict[str, Path]:
    """Where the splits are, and under ``test`` where the test splits are, if elsewhere.

    ``path/<configuration>``, ``path/<task>``, or ``path`` itself.
    """

    def below(*names: str | None) -> Path:
        return next((path / name for name in names if name and (path / name).is_dir()), path)

    if config.config is not None and config.config == task.config and below(task.config) == path:
        raise no_subset(config.config, path)
    tests = {"test": below(task.test_config, task.config, name)} if task.test_config else {}
    return {"": below(task.config, name), **tests}


@dataclass(frozen=True, slots=True)
class LocalReader:
    """Row files or a ``save_to_disk`` folder; which file is which split, the files' names tell."""

    places: Mapping[str, Path]
    """Path of the data, and under ``test`` that of the test splits where it is another."""

    task: TableTask
    cache: Path
    """Where digests of files are remembered."""

    _opened: dict[Path, DataFiles] = field(default_factory=dict, init=False)

    @property
    def origin(self) -> str:
        return str(self.places[""])

    def split(self, split: str, kind: str) -> Dataset | None:
        """The rows of ``split``, slices allowed; ``None`` if there is nothing of it."""
        place = self.places.get(kind, self.places[""])
        if is_saved(place):
            parts = load_saved(place)
            part = parts.get(named_split(parts, split) or "")
            if part is not None:
                stored = (Path(file["filename"]) for file in part.cache_files)
                key = [part._fingerprint, file_digests(stored, self.cache)]
                part._fingerprint = key_of(key)  # its own does not tell a replaced file
        else:
            files = self._files(place, split.partition("[")[0])
            part = self._read(files, kind) if files else None
        return None if part is None else sliced(part, split, KEYS[kind])

    def files_of(self, splits: Mapping[str, str]) -> dict[str, str]:
        """The file of each split that is one whole file, by the keys of ``splits``."""
        place = self.places[""]
        if is_saved(place):
            return {}
        files = {key: self._found(place).of_split(split) for key, split in splits.items()}
        return {key: str(own[0]) for key, own in files.items() if len(own) == 1}

    def missing(self, split: str) -> ConfigError:
        """What to say if a split is not there."""
        place = self.places[""]
        if is_saved(place):
            has = ", ".join(load_saved(place))
        else:
            has = shortened(str(file.name) for file in self._found(place).files)
        name = split.partition("[")[0]
        hint = "; dataset.validation_split=0.1 holds a part of the training data out"
        return ConfigError(
            f"dataset.path={place}: has no {name} (such as {name}.csv); it holds "
            f"{has or 'nothing'}{'' if name == self.task.train else hint}"
        )

    def _found(self, place: Path) -> DataFiles:
        if place not in self._opened:
            self._opened[place] = find_files(place, "dataset.path", (*TABLES, *TAGGED))
        return self._opened[place]

    def _files(self, place: Path, name: str) -> list[Path]:
        data = self._found(place)
        if place.is_file():
            return [place] if name == "train" else []
        files = data.of_split(name)
        if files:
            log_splits(str(place), {name: files})
        return files

    def _read(self, files: list[Path], kind: str) -> Dataset:
        task = self.task
        needed = [*task.texts, *([] if kind == "test" else [task.label_column])]
        columns_read = {*task.texts, task.label_column, *task.others}
        table = read_table(files, "dataset.path", {*columns_read, *map(root_column, columns_read)})
        for path in sorted(columns_read - set(table.column_names)):
            table = _with_path(table, path)
        if missing := [column for column in needed if column not in table.column_names]:
            columns = row_columns(files[0], "dataset.path")
            raise lacks_columns("dataset.path", files[0], missing, columns)
        table = table.select([name for name in table.column_names if name in columns_read])
        if all(format_of(file) in ("csv", "tsv") for file in files):
            for name in sorted({task.label_column, *task.others} & set(table.column_names)):
                table = _with_numbers(table, name)
        # By content, so that tokens are found again: that of datasets differs in each process.
        key = {
            "files": file_digests(files, self.cache),
            "columns": sorted(columns_read),
            "rules": RULES,
        }
        return Dataset(table, fingerprint=key_of(key))


@dataclass(frozen=True, slots=True)
class HubReader:
    """A dataset of the hub, at the revision of the task's row, or a pinned one.

    Not tested: there is no hub here.
    """

    task: TableTask
    cache: Path

    @property
    def revision(self) -> str | None:
        """The revision to read; ``None``: the newest."""
        return self.task.revision or REVISIONS.get(self.task.source)

    @property
    def origin(self) -> str:
        parts = [self.task.source, self.task.config or "", self.revision or ""]
        return " ".join(part for part in parts if part)

    def split(self, split: str, kind: str) -> Dataset | None:
        """The rows of ``split``, slices allowed; ``None`` if the dataset has none of this name."""
        test_config = self.task.test_config if kind == "test" else None
        key = "data_dir" if self.revision == CONVERTED else "name"
        chosen = {key: test_config or self.task.config}
        try:
            return load_dataset(
                self.task.source,
                split=split,
                revision=self.revision,
                cache_dir=str(self.cache / "hub"),
                **chosen,
            )
        except Exception as error:  # the hub's client raises dozens of kinds
            if isinstance(error, ValueError) and "Unknown split" in str(error):
                return None
            raise ConfigError(
                f"{self.origin} could not be loaded from the hub ({type(error).__name__}: "
                f"{first_line(error)}); dataset.path=FOLDER reads local files of the same columns "
                f"({self.task.config or 'the task'}/train.jsonl, …)"
            ) from error

    def files_of(self, splits: Mapping[str, str]) -> dict[str, str]:
        """None: the splits of the hub go by their names."""
        return {}

    def missing(self, split: str) -> ConfigError:
        """What to say if a split is not there."""
        return ConfigError(f"{self.origin} has no split {split}")


def _with_path(table: pa.Table, path: str) -> pa.Table:
    """The table with what ``path`` leads to as a column, if it leads anywhere (``doc.text``)."""
    root = root_column(path)
    if root not in table.column_names or root == path:
        return table
    values = [value_at({root: value}, path) for value in table[root].to_pylist()]
    return table.append_column(path, pa.array(values))


def _with_numbers(table: pa.Table, name: str) -> pa.Table:
    """The table with a column of text as numbers, if all of it is numbers."""
    column = table[name]
    for pattern, kind in ((INTEGER, pa.int64()), (DECIMAL, pa.float64())):
        if len(column) and pc.all(pc.match_substring_regex(column, pattern)).as_py():
            numbers = pc.cast(pc.utf8_trim_whitespace(column), kind)
            return table.set_column(table.column_names.index(name), name, numbers)
    return table
