"""Which files of a folder hold rows, and which split each of them belongs to: one rule for all.

The names of a file and of the folders above it, up to the folder that the setting names, tell its
split: ``train``; ``val``, ``valid``, ``validation``, ``dev`` or ``eval``; ``test``. They count as
whole words between anything that is no letter: ``my.dev.jsonl`` and ``corpus-test/a.txt``, but not
``testimony.txt``. A name that is such a word and nothing else (``train-00000-of-00010.parquet``,
``train/``) outranks one that contains it; after that the innermost name decides, and the last word
in it. :data:`WHOLE_NAMES` (``testing``, ``devset``, ``held-out/``) count only as such a name: as
one of several words they may be of a topic. What has no such word is training data.
"""

import glob
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from neobert.console import get_logger
from neobert.data.rows import FORMATS, OPENERS, format_of
from neobert.errors import ConfigError
from neobert.files import user_path

log = get_logger(__name__)

SPLIT_WORDS = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    "test": "test",
}
"""Word in a name -> split."""

WHOLE_NAMES = {
    word + end: split
    for word, split in {
        **SPLIT_WORDS,
        "training": "train",
        **dict.fromkeys(("validate", "evaluate", "evaluation", "development"), "validation"),
        **dict.fromkeys(("devel", "heldout", "holdout"), "validation"),
        "testing": "test",
    }.items()
    for end in ("", "set", "data")
}
"""Name that is this word and nothing else -> split; among others such a word is one of a topic."""

HELD_OUT = ("validation", "test")
SHARD = re.compile(r"[-_.]\d+([-_]of[-_]\d+)?$")
WORD = re.compile(r"[^\W\d_]+")
SHOWN = 4
"""Names that a message lists at most."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file, and where it is below the folder, glob or file that the setting names."""

    path: Path
    name: Path

    @property
    def split(self) -> str | None:
        """``train``, ``validation`` or ``test``; ``None`` where no name tells."""
        return _split_of((*self.name.parts[:-1], _stem(self.name.name)))

    @property
    def is_shallow(self) -> bool:
        """Whether each folder above it is one of a split, or ``data``: not of another data set."""
        return all(part.lower() == "data" or _splits(_words(part)) for part in self.name.parts[:-1])

    def is_called(self, name: str) -> bool:
        """Whether the file, or the folder it is in, has the name of a split or table.

        Suffixes, shard numbers and case do not count, and ``dev``, ``val`` … are ``validation``:
        ``dev_matched.tsv.gz`` is called ``validation_matched``.
        """
        requested = [_canonical(part) for part in name.split("/")]
        parts = [_canonical(part) for part in (*self.name.parts[:-1], _stem(self.name.name))]
        parts = parts[1:] if len(parts) > 1 and parts[0] == "data" else parts
        return parts[: len(requested)] == requested


@dataclass(frozen=True, slots=True)
class DataFiles:
    """The files with rows at a path, sorted by name; empty ones are logged and left out."""

    setting: str
    """The key that names the path."""

    origin: str
    """The path as the user wrote it."""

    files: tuple[DataFile, ...]
    empty: tuple[DataFile, ...] = ()
    """Files of no bytes, which are left out."""

    def called(self, name: str) -> list[Path]:
        """The files of a table or split of this name (:meth:`DataFile.is_called`)."""
        return _called(self.files, name)

    def of_split(self, name: str) -> list[Path]:
        """The files called ``name``, else those of the split; none of another folder's data set.

        Of ``train`` where no file is called so: those of no other split. Raises ``ConfigError``
        where all of them are empty.
        """
        paths = _files_of(self.files, name)
        if not paths and (empty := _files_of(self.empty, name)):
            raise ConfigError(f"{self.setting}={self.origin}: {shortened(map(str, empty))}: empty")
        return paths

    def by_split(self, requested: Collection[str] = ()) -> dict[str, list[Path]]:
        """All files by their split.

        ``requested`` are names of splits in the settings, which may be those of files. Where all
        files are of one split that is not among them, there is nothing to tell apart: all are
        training data.
        """
        splits: dict[str, list[Path]] = {}
        for file in self.files:
            name = next((split for split in requested if file.is_called(split)), file.split)
            splits.setdefault(name or "train", []).append(file.path)
        known = {canonical_split(name) for name in ("train", *requested)}
        if len(splits) == 1 and not known & {canonical_split(name) for name in splits}:
            return {"train": next(iter(splits.values()))}
        return splits


def find_files(path: str | Path, setting: str, formats: Collection[str]) -> DataFiles:
    """The files of ``formats`` at a file, below a folder, or of a glob that is no file's name.

    Links are followed, each file is taken once, hidden ones are left out. Raises ``ConfigError``
    where there is none, or where all are empty.
    """
    candidates = _candidates(path, setting)
    chosen = _once([file for file in candidates if format_of(file.path) in formats])
    if not chosen:
        present = sorted({file.path.suffix or file.path.name for file in candidates})
        suffixes = ", ".join(suffix for suffix, kind in FORMATS.items() if kind in formats)
        raise ConfigError(
            f"{setting}={path}: holds {shortened(present) or 'nothing'}; one of {suffixes} is "
            f"needed, also compressed ({', '.join(OPENERS)})"
        )
    empty = [file for file in chosen if file.path.stat().st_size == 0]
    if len(empty) == len(chosen):
        names = (
            "" if user_path(path).is_file() else f"{shortened(str(file.name) for file in empty)}: "
        )
        raise ConfigError(f"{setting}={path}: {names}empty")
    for file in empty:
        log.warning("%s is empty and left out", file.path)
    filled = tuple(file for file in chosen if file not in empty)
    return DataFiles(setting, str(path), filled, tuple(empty))


def log_splits(origin: str, splits: dict[str, list[Path]], unused: Collection[str] = ()) -> None:
    """One line that says which file went where, by the files' places in the folder of all."""
    folder = os.path.commonpath([file.parent for files in splits.values() for file in files])
    parts = [
        f"{name}{' (not read)' if name in unused else ''}: "
        f"{shortened(str(file.relative_to(folder)) for file in files)}"
        for name, files in splits.items()
    ]
    log.info("%s: %s", origin, "; ".join(parts))


def shortened(names: Iterable[str]) -> str:
    """The names, or the first few of them and how many there are."""
    listed = list(names)
    more = f", … ({len(listed)} in all)" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def canonical_split(name: str) -> str:
    """``validation`` for its other names, and so on; another name as it is."""
    return SPLIT_WORDS.get(name.lower(), name)


def _called(files: Iterable[DataFile], name: str) -> list[Path]:
    return [file.path for file in files if file.is_called(name)]


def _files_of(files: Iterable[DataFile], name: str) -> list[Path]:
    """The files called ``name``, else those of the split, else of ``train`` those of none."""
    if called := _called(files, name):
        return called
    shallow = [file for file in files if file.is_shallow]
    for split in (canonical_split(name), None if name == "train" else name):
        if paths := [file.path for file in shallow if file.split == split]:
            return paths
    return []


def _candidates(path: str | Path, setting: str) -> list[DataFile]:
    """Every regular file at ``path``, whatever its format."""
    place = user_path(path)
    try:
        if place.is_file():
            return [DataFile(place, Path(place.name))]
        if place.is_dir():
            return _below(place)
        if place.exists():
            raise ConfigError(f"{setting}={path}: is neither a file nor a folder")
        if glob.has_magic(str(place)):
            return _matching(place)
    except (OSError, ValueError) as error:  # ConfigError is one too
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{setting}={path}: cannot be read ({error})") from error
    raise ConfigError(f"{setting}={path}: there is no such file or folder")


def _below(folder: Path) -> list[DataFile]:
    """The regular files below ``folder``; a loop of links ends."""
    data_files: list[DataFile] = []
    entered: set[tuple[Path, str | None]] = set()
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        below = Path(place).relative_to(folder)
        # Under each name that tells another split, lest a link hide that it is one.
        visit = (Path(place).resolve(), _split_of(below.parts))
        if visit in entered:
            folders.clear()
            continue
        entered.add(visit)
        # Folders of tools: .git, .ipynb_checkpoints with a copy of what was opened there.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(place, name) for name in files if not name.startswith((".", "_"))]
        data_files += [DataFile(path, below / path.name) for path in paths if _is_readable(path)]
    return sorted(data_files, key=lambda file: file.path)


def _raise(error: OSError) -> None:
    raise error


def _matching(pattern: Path) -> list[DataFile]:
    """The files of a glob, and those below its folders."""
    fixed = list(takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    base = Path(*fixed)
    data_files = []
    for path in sorted(base.glob(str(Path(*pattern.parts[len(fixed) :])))):
        inside = _below(path) if path.is_dir() else [DataFile(path, Path())]
        data_files += [DataFile(file.path, file.path.relative_to(base)) for file in inside]
    return [file for file in data_files if _is_readable(file.path)]


def _is_readable(path: Path) -> bool:
    """Whether it is a regular file. Data behind a broken link is missing: a ``ConfigError``."""
    if path.is_file() or format_of(path) is None:
        return path.is_file()
    if path.is_symlink() and not path.exists():
        raise ConfigError(
            f"{path}: is a link to {path.readlink()}, which does not exist: mend or remove it"
        )
    log.warning("%s is no regular file and left out", path)
    return False


def _once(files: list[DataFile]) -> list[DataFile]:
    """Each file once, whatever links lead to it; held out if any of its names is."""
    held_out = {file.path.resolve() for file in files if file.split in HELD_OUT}
    seen: dict[tuple[Path, str], DataFile] = {}
    for file in files:
        real = file.path.resolve()
        if file.split in HELD_OUT:
            seen.setdefault((real, _canonical(_stem(file.name.name))), file)
        elif real not in held_out:
            seen.setdefault((real, ""), file)
    return list(seen.values())


def _stem(name: str) -> str:
    """A file name without the suffixes of its format and compression."""
    for suffixes in (OPENERS, FORMATS):
        if Path(name).suffix.lower() in suffixes:
            name = Path(name).stem
    return name


def _split_of(names: tuple[str, ...]) -> str | None:
    """The split that names tell, of which the last is the innermost."""
    matches = [words for name in reversed(names) if _splits(words := _words(name))]
    exact = [words for words in matches if len(words) == 1]
    return _splits((exact or matches)[0])[-1] if matches else None


def _words(name: str) -> list[str]:
    words = WORD.findall(SHARD.sub("", name).lower())
    split = WHOLE_NAMES.get("".join(words))
    return [split] if split else words


def _splits(words: list[str]) -> list[str]:
    return [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]


def _canonical(name: str) -> str:
    """A name in lower case without its shard number, each word of a split as the split's name."""
    plain = SHARD.sub("", name.lower())
    return WORD.sub(lambda word: SPLIT_WORDS.get(word[0], word[0]), plain)
