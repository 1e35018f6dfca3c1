"""Derived data on disk: folders that appear under their name only when complete.

A folder's name is a hash of everything its content depends on, so a stale one is never read: other
settings have another name. Several processes may want the same folder at once; one makes it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from neobert.errors import ConfigError, RunError
from neobert.files import (
    REPLACED,
    TEMPORARY,
    first_line,
    is_disk_full,
    publish_folder,
    root_cause,
    user_path,
)


def cache_folder(cache_dir: str | None) -> Path:
    """``dataset.cache_dir``, else ``$NEOBERT_CACHE``, else ``neobert`` in the user's cache."""
    chosen = cache_dir or os.environ.get("NEOBERT_CACHE")
    if chosen:
        return user_path(chosen)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "neobert"


def key_of(recipe: object) -> str:
    """Hash of a recipe (JSON values): the name of the folder made from it."""
    canonical = json.dumps(recipe, sort_keys=True, ensure_ascii=False)
    return sha256(canonical.encode()).hexdigest()[:24]


def build_cached(
    folder: Path, build: Callable[[Path], None], wait: bool = True, rebuild: bool = False
) -> bool:
    """``build`` a folder of the cache if it is missing, or again with ``rebuild``.

    One process builds, the others wait; without ``wait`` they return False. ``folder`` is the old
    one or the complete new one. Errors are those of :func:`writing`.
    """
    if folder.is_dir() and not rebuild:
        return True
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        try:
            if rebuild or not folder.is_dir():
                _remove_leftovers(folder)
                with publish_folder(folder, replace=rebuild) as temporary:
                    build(temporary)
        finally:
            lock.release()
    return True


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn errors of writing below ``folder`` into one line with the key to change.

    Raises ``RunError`` for a full disk, and ``ConfigError`` where nothing can be written at all.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or is_disk_full(error):
            raise cache_is_full(error, folder) from error
        raise


@contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Turn whatever reading a cached ``folder`` raises into one ``RunError`` that names it."""
    try:
        yield
    except (ConfigError, RunError):
        raise
    except Exception as error:
        raise RunError(
            f"{folder}: damaged ({first_line(error)}); delete it, and the next run makes it again"
        ) from error


def cache_is_full(error: BaseException, folder: Path | str = "the cache") -> ConfigError | RunError:
    """What to do about an error of writing: ``RunError`` for a full disk."""
    kind = RunError if is_disk_full(error) else ConfigError
    return kind(
        f"{folder} could not be written ({root_cause(error)}); make room, or set "
        "dataset.cache_dir to a folder with room"
    )


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left; the caller holds the lock."""
    start = f"{TEMPORARY}{folder.name}-"
    for leftover in folder.parent.glob(f"{start}*"):
        if leftover.name.removeprefix(start).isdigit():
            shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(folder.with_name(f"{REPLACED}{folder.name}"), ignore_errors=True)
