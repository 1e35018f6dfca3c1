"""Local files of text: which they are, how they are read, and which of them is damaged."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import DatasetDict, IterableDatasetDict, load_dataset
from pyarrow import parquet

from neobert.config.checks import ConfigError
from neobert.console import get_logger
from neobert.data.cache import cache_is_full
from neobert.files import is_disk_full, root_cause

log = get_logger(__name__)

EVALUATION_SPLITS = ("validation", "eval", "test", "dev")
FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".text": "text",
}
SEPARATORS = {"csv": ",", "tsv": "\t"}
COMPRESSED = (".gz", ".xz", ".zst", ".bz2")


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files of one kind below ``dataset.path``."""

    path: Path
    kind: str
    """parquet, json, csv, tsv or text."""

    files: list[Path]

    def load(self, streaming: bool, cache: Path) -> DatasetDict | IterableDatasetDict:
        """The splits in the files."""
        separator = SEPARATORS.get(self.kind)
        options = {"sep": separator} if separator else {}
        return load_dataset(
            "csv" if separator else self.kind,
            data_files=self._by_split(),
            streaming=streaming,
            cache_dir=str(cache / "files"),
            **options,
        )

    def explain(self, error: BaseException) -> ConfigError:
        """What is the matter, by file and line, when reading ended with ``error``."""
        if is_disk_full(error):
            return cache_is_full(error)
        for file in self.files:
            damage = _damage(file, self.kind)
            if damage is not None:
                return ConfigError(f"dataset.path: {file}{damage}; mend or remove it")
        reason = str(root_cause(error)).strip().splitlines()
        return ConfigError(
            f"dataset.path={self.path}: could not be read as {self.kind} "
            f"({reason[0] if reason else type(error).__name__})"
        )

    def _by_split(self) -> dict[str, list[str]]:
        """Files called ``validation*``, ``test*`` … are that split, all others are training."""
        found: dict[str, list[str]] = {}
        for file in self.files:
            stem = file.name.lower()
            split = next((one for one in EVALUATION_SPLITS if stem.startswith(one)), "train")
            found.setdefault(split, []).append(str(file))
        if "train" not in found:
            return {"train": [str(file) for file in self.files]}
        for split, files in found.items():
            if split != "train":
                log.info("not trained on, by its name: %s (%s)", ", ".join(files), split)
        return found


def find_files(path: Path) -> LocalFiles:
    """The files at ``path``. Empty ones are named and left out; all empty is an error."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    files = [one for one in files if not one.name.startswith((".", "_"))]
    # Folders of tools: .git, .ipynb_checkpoints with a copy of what was looked at.
    files = [one for one in files if not _is_hidden(one.relative_to(path).parent)]
    kinds = {_kind(one) for one in files} - {None}
    if len(kinds) != 1:
        found = ", ".join(sorted({one.suffix or one.name for one in files})) or "nothing"
        raise ConfigError(
            f"dataset.path={path}: holds {found}; one of {', '.join(sorted(FORMATS))} is "
            "needed, one kind in a folder"
        )
    (kind,) = kinds
    assert kind is not None
    chosen = [one for one in files if _kind(one) == kind]
    empty = [one for one in chosen if one.stat().st_size == 0]
    if len(empty) == len(chosen):
        raise ConfigError(f"dataset.path={path}: {', '.join(map(str, empty))}: empty, no text")
    for one in empty:
        log.warning("%s is empty and left out", one)
    return LocalFiles(path, kind, [one for one in chosen if one not in empty])


def _is_hidden(below: Path) -> bool:
    return any(part.startswith(".") for part in below.parts)


def _kind(file: Path) -> str | None:
    """What a file's ending says of it, or that of a compressed one's inside."""
    name = Path(file.stem) if file.suffix.lower() in COMPRESSED else file
    return FORMATS.get(name.suffix.lower())


def _damage(file: Path, kind: str) -> str | None:
    """``, line 3: …`` where a file is damaged; ``None`` where it is sound or cannot be told."""
    if file.suffix.lower() in COMPRESSED:
        return None
    if kind == "parquet":
        return _parquet_damage(file)
    if file.suffix.lower() == ".json":
        return _json_damage(file)
    for number, line in enumerate(_lines(file), 1):
        try:
            text = line.decode("utf-8")
            if kind == "json" and text.strip():
                json.loads(text)
        except UnicodeDecodeError as error:
            byte = line[error.start]
            return f", line {number}: not UTF-8 (byte 0x{byte:02x} at {error.start})"
        except json.JSONDecodeError as error:
            return f", line {number}: no JSON ({error.msg})"
    return _csv_damage(file, SEPARATORS[kind]) if kind in SEPARATORS else None


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        yield from opened


def _json_damage(file: Path) -> str | None:
    try:
        text = file.read_text(encoding="utf-8")
        json.loads(text)
    except UnicodeDecodeError as error:
        return f": not UTF-8 (byte {error.start})"
    except json.JSONDecodeError as error:
        try:  # lines of JSON under the ending of one document
            for line in filter(str.strip, text.splitlines()):
                json.loads(line)
        except json.JSONDecodeError:
            return f", line {error.lineno}: no JSON ({error.msg})"
    return None


def _csv_damage(file: Path, separator: str) -> str | None:
    csv.field_size_limit(1 << 30)  # documents of many megabytes are no damage
    with file.open(encoding="utf-8", newline="") as opened:
        rows = csv.reader(opened, delimiter=separator)
        try:
            width = len(next(rows, []))
            for row in rows:
                if len(row) > width:
                    return f", line {rows.line_num}: {len(row)} fields, the header has {width}"
        except csv.Error as error:
            return f", line {rows.line_num}: {error}"
    return None


def _parquet_damage(file: Path) -> str | None:
    try:
        with parquet.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                opened.read_row_group(group)
    except (OSError, ValueError) as error:
        return f": damaged or cut off ({str(error).splitlines()[0]})"
    return None
