"""Derived data on disk: folders that appear under their name only when complete.

A folder's name is a hash of everything its content depends on, so a stale one is never read: other
settings have another name. Several processes may want the same folder at once; one makes it.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from neobert.config.checks import ConfigError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder(cache_dir: str | None) -> Path:
    """``dataset.cache_dir``, else ``$NEOBERT_CACHE``, else ``neobert`` in the user's cache."""
    chosen = cache_dir or os.environ.get("NEOBERT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "neobert"


def key_of(recipe: object) -> str:
    """Hash of a recipe (JSON values): the name of the folder made from it."""
    canonical = json.dumps(recipe, sort_keys=True, ensure_ascii=False)
    return sha256(canonical.encode()).hexdigest()[:24]


def publish(folder: Path, make: Callable[[Path], None]) -> None:
    """Have ``folder``: if it is missing, ``make`` it under another name, then rename it.

    Whoever comes second waits for the first. An error leaves nothing behind under ``folder``;
    a full disk is told with the key to change.
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                _make(folder, make)
    except Exception as error:
        if isinstance(error, OSError) or no_room(error):
            raise cache_is_full(error, folder) from error
        raise


def root_cause(error: BaseException) -> BaseException:
    """The error that the others came from."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def no_room(error: BaseException) -> bool:
    """Whether a full disk is at the root of ``error``."""
    cause = root_cause(error)
    return isinstance(cause, OSError) and cause.errno in NO_ROOM


def cache_is_full(error: BaseException, folder: Path | str = "the cache") -> ConfigError:
    """What to do about :func:`no_room`."""
    return ConfigError(
        f"{folder} could not be written ({root_cause(error)}); make room, or set "
        "dataset.cache_dir to a folder with room"
    )


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    temporary = folder.with_name(f".incomplete-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process; the lock is ours
    temporary.mkdir()
    try:
        make(temporary)
        for file in (one for one in temporary.rglob("*") if one.is_file()):
            _to_disk(file)
        temporary.rename(folder)
        _to_disk(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _to_disk(path: Path) -> None:
    """Else a power failure can leave a complete name and zeros in the file, unnoticed."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
