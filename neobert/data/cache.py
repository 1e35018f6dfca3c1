"""Derived data on disk: folders that appear under their name only when complete.

A folder's name is a hash of everything its content depends on, so a stale one is never read: other
settings have another name. Several processes may want the same folder at once; one makes it.
"""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from neobert.errors import ConfigError
from neobert.files import TEMPORARY, is_disk_full, publish_folder, root_cause


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
        if isinstance(error, OSError) or is_disk_full(error):
            raise cache_is_full(error, folder) from error
        raise


def cache_is_full(error: BaseException, folder: Path | str = "the cache") -> ConfigError:
    """What to do about :func:`~neobert.files.is_disk_full`."""
    return ConfigError(
        f"{folder} could not be written ({root_cause(error)}); make room, or set "
        "dataset.cache_dir to a folder with room"
    )


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    start = f"{TEMPORARY}{folder.name}-"
    for leftover in folder.parent.glob(f"{start}*"):
        if leftover.name.removeprefix(start).isdigit():  # of a killed process; the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
    with publish_folder(folder) as temporary:
        make(temporary)
