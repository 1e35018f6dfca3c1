"""Derived data on disk: folders that appear under their name only when complete.

A folder's name is a hash of everything its content depends on, so a stale one is never read: other
settings have another name. Several processes may want the same folder at once; one makes it.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from neobert.errors import ConfigError, RunError
from neobert.files import (
    REPLACED,
    TEMPORARY,
    explaining,
    first_line,
    is_disk_full,
    publish_folder,
    root_cause,
    sha256,
    user_path,
)

SETTLED = 2.0
"""Seconds after a change from which on the file system's clock tells a further one."""


def cache_folder(cache_dir: str | None) -> Path:
    """``dataset.cache_dir``, else ``$NEOBERT_CACHE``, else ``neobert`` in the user's cache."""
    chosen = cache_dir or os.environ.get("NEOBERT_CACHE")
    if chosen:
        return user_path(chosen)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "neobert"


def key_of(recipe: object) -> str:
    """Hash of a recipe (JSON values): the name of the folder made from it."""
    canonical = json.dumps(recipe, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:24]


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


def opening(folder: Path) -> AbstractContextManager[None]:
    """Turn whatever reading a cached ``folder`` raises into one ``RunError`` that names it."""
    return explaining(
        lambda error: RunError(
            f"{folder}: damaged ({first_line(error)}); delete it, and the next run makes it again"
        )
    )


def cache_is_full(error: BaseException, folder: Path | str = "the cache") -> ConfigError | RunError:
    """What to do about an error of writing: ``RunError`` for a full disk."""
    kind = RunError if is_disk_full(error) else ConfigError
    return kind(
        f"{folder} could not be written ({root_cause(error)}); make room, or set "
        "dataset.cache_dir to a folder with room"
    )


def file_digests(files: Iterable[Path], cache: Path) -> list[str]:
    """The SHA-256 of each file, computed once per state of a file and remembered below ``cache``.

    A time stamp can be kept when a file is replaced (``cp -p``, ``rsync -t``, ``tar``); the time of
    the last change of its inode cannot, so that is part of what a digest is remembered under.
    """
    return [_digest(file, cache / "digests") for file in files]


def _digest(file: Path, folder: Path) -> str:
    state = file.stat()
    times = [state.st_mtime_ns, state.st_ctime_ns]
    known = folder / key_of(
        [str(file.resolve()), state.st_dev, state.st_ino, state.st_size, *times]
    )
    if known.is_file() and len(digest := known.read_text(errors="replace")) == 64:
        return digest
    digest = sha256(file)
    if time.time() - max(times) / 1e9 > SETTLED:
        _remember(known, digest)
    return digest


def _remember(known: Path, digest: str) -> None:
    """Write the digest, or leave it: it only saves the next run some time."""
    temporary = known.with_name(f".{known.name}.{os.getpid()}")
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(digest)
        temporary.replace(known)
    except OSError:
        temporary.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left; the caller holds the lock."""
    start = f"{TEMPORARY}{folder.name}-"
    for leftover in folder.parent.glob(f"{start}*"):
        if leftover.name.removeprefix(start).isdigit():
            shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(folder.with_name(f"{REPLACED}{folder.name}"), ignore_errors=True)
