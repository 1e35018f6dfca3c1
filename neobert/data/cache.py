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

from neobert.config.checks import ConfigError


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
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _make(folder, make)
    except OSError as error:
        raise ConfigError(
            [
                f"{folder} could not be written ({error.strerror or error}); "
                "make room, or set dataset.cache_dir to a folder with room"
            ]
        ) from error


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process; the lock is ours
    temporary.mkdir()
    try:
        make(temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
