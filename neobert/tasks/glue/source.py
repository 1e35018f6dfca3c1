"""Where a task's splits come from: the hub, a local folder with the same columns, a package."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict

from neobert.config.checks import ConfigError
from neobert.config.dataset import DatasetConfig
from neobert.data.corpora import is_packaged
from neobert.tasks.glue.packaged import is_packaged_task, packaged_folder
from neobert.tasks.glue.tasks import GlueTask

FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
OTHER_NAMES = {"validation": ("dev", "eval"), "dev": ("validation",)}
"""Names that a local file of a split may have too."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The data of a task, untouched."""

    origin: str
    """For messages and records: a folder, or a dataset of the hub with its revision."""

    train: Dataset
    validation: Mapping[str, Dataset]
    """By the end of the metrics' names: ``""``, ``"_mm"``."""

    test: Mapping[str, Dataset]
    """By name of the split; what is not there is left out."""


def open_splits(task: GlueTask, name: str, config: DatasetConfig, cache: Path, seed: int) -> Splits:
    """Read the splits of ``task``, called ``name``.

    Slices (``dataset.train_split=train[:10%]``), ``validation_split`` and ``eval_samples`` work as
    in pretraining. Raises ``ConfigError`` if a split that is needed is missing.
    """
    reader = _reader(task, name, config, cache)
    train = reader.needed(config.train_split or task.train, "train")
    wanted = task.validation if config.eval_split is None else {config.eval_split: ""}
    found = {end: reader.split(split, "validation") for split, end in wanted.items()}
    if config.validation_split is not None and not any(found.values()):
        halves = train.train_test_split(test_size=config.validation_split, seed=seed)
        train, found = halves["train"], {"": halves["test"]}
    for split, end in wanted.items():
        if found.get(end) is None:
            raise reader.missing(split)
    limit = config.eval_samples
    validation = {
        end: part if limit is None else part.take(min(limit, len(part)))
        for end, part in found.items()
        if part is not None
    }
    tests = {split: reader.split(split, "test") for split in task.test}
    return Splits(
        origin=reader.origin,
        train=train,
        validation=validation,
        test={split: part for split, part in tests.items() if part is not None},
    )


def _reader(
    task: GlueTask, name: str, config: DatasetConfig, cache: Path
) -> "FolderReader | HubReader":
    if config.path:
        path = Path(config.path).expanduser()
        if not path.exists():
            raise ConfigError(f"dataset.path={config.path}: there is no such folder")
        return FolderReader(path, task, name, cache)
    if is_packaged_task(task.source):
        return FolderReader(packaged_folder(task.source, cache), task, name, cache)
    if is_packaged(task.source) or task.source == "local":
        raise ConfigError(
            f"glue.task_name={name} is a task of your own: set dataset.path to the folder of "
            "its files (train.csv, validation.csv, …), or dataset.name to an id of the hub"
        )
    return HubReader(task, config, cache)


@dataclass(frozen=True, slots=True)
class FolderReader:
    """Files ``<split>.{parquet,jsonl,json,csv,tsv}``, in ``path`` or below the task's name."""

    path: Path
    task: GlueTask
    name: str
    cache: Path

    @property
    def origin(self) -> str:
        return str(self._folder(self.task.config))

    def needed(self, wanted: str, kind: str) -> Dataset:
        """A split that must be there."""
        found = self.split(wanted, kind)
        if found is None:
            raise self.missing(wanted)
        return found

    def split(self, wanted: str, kind: str) -> Dataset | None:
        """The split ``wanted``, slices allowed; ``None`` if there is no file of it."""
        folder = self._folder(self.task.test_config if kind == "test" else self.task.config)
        split = wanted.partition("[")[0]
        if (folder / "dataset_dict.json").is_file():
            return _of_saved(folder, split)
        for one in (split, *OTHER_NAMES.get(split, ())):
            files = _files(folder, one)
            if files:
                return self._read(files, split, wanted)
        return None

    def missing(self, wanted: str) -> ConfigError:
        """What to say if a split is not there."""
        split = wanted.partition("[")[0]
        folder = self._folder(self.task.config)
        there = ", ".join(sorted(one.name for one in folder.iterdir())) or "nothing"
        return ConfigError(
            f"dataset.path={self.path}: {folder} has no {split}"
            f"{{{','.join(FORMATS)}}}; it holds {there}"
        )

    def _folder(self, config: str | None) -> Path:
        """``path/<configuration>``, ``path/<task>``, or ``path`` itself."""
        for name in (config or self.name, self.task.config or self.name, self.name):
            if (self.path / name).is_dir():
                return self.path / name
        return self.path

    def _read(self, files: list[Path], split: str, wanted: str) -> Dataset:
        kind = FORMATS[files[0].suffix]
        options: dict[str, object] = {}
        if kind == "csv":
            # Else the text "None", and "NA", would be read as missing.
            options = {"keep_default_na": False}
        if files[0].suffix == ".tsv":
            options |= {"sep": "\t", "quoting": csv.QUOTE_NONE}
        try:
            return datasets.load_dataset(
                kind,
                data_files={split: [str(file) for file in files]},
                split=wanted,
                cache_dir=str(self.cache / "files"),
                **options,
            )
        except Exception as error:  # pyarrow, pandas and json each have their own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"dataset.path: {files[0]} could not be read as {kind} ({reason})"
            ) from error


@dataclass(frozen=True, slots=True)
class HubReader:
    """A dataset of the Hugging Face Hub, at the revision of the task's row."""

    task: GlueTask
    config: DatasetConfig
    cache: Path

    @property
    def origin(self) -> str:
        parts = [self.task.source, self.task.config or "", self.task.revision or ""]
        return " ".join(part for part in parts if part)

    def needed(self, wanted: str, kind: str) -> Dataset:
        """A split that must be there."""
        found = self.split(wanted, kind)
        if found is None:
            raise self.missing(wanted)
        return found

    def split(self, wanted: str, kind: str) -> Dataset | None:
        """The split ``wanted``, slices allowed; ``None`` if the dataset has none of this name."""
        chosen = self.task.test_config if kind == "test" else None
        extra = {"trust_remote_code": True} if self.config.trust_remote_code else {}
        try:
            return datasets.load_dataset(
                self.task.source,
                chosen or self.task.config,
                split=wanted,
                revision=self.task.revision,
                cache_dir=str(self.cache / "hub"),
                **extra,
            )
        except ValueError as error:
            if "Unknown split" in str(error):
                return None
            raise self._failed(error) from error
        except Exception as error:  # the hub's client raises dozens of kinds
            raise self._failed(error) from error

    def missing(self, wanted: str) -> ConfigError:
        """What to say if a split is not there."""
        return ConfigError(f"{self.origin} has no split {wanted}")

    def _failed(self, error: Exception) -> ConfigError:
        reason = (str(error).splitlines() or [""])[0]
        return ConfigError(
            f"{self.origin} could not be loaded from the hub ({type(error).__name__}: "
            f"{reason}); dataset.path=FOLDER reads local files of the same columns "
            f"({self.task.config or 'the task'}/train.jsonl, …), and "
            "glue.task_name=factbook_sections needs no network"
        )


def _files(folder: Path, split: str) -> list[Path]:
    """The files of a split: ``train.csv``, or the hub's shards ``train-00000-of-00001.parquet``."""
    for place in (folder, folder / "data"):
        for ending in FORMATS:
            found = [place / f"{split}{ending}", *sorted(place.glob(f"{split}-*{ending}"))]
            files = [file for file in found if file.is_file()]
            if files:
                return files
    return []


def _of_saved(folder: Path, split: str) -> Dataset | None:
    saved = datasets.load_from_disk(str(folder))
    assert isinstance(saved, DatasetDict)
    return saved.get(split)
