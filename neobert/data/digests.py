"""SHA-256 of data files, computed once per state of a file: cached data is known by its content.

A time stamp can be kept when a file is replaced (``cp -p``, ``rsync -t``, ``tar``); the time of the
last change of its inode cannot, so that is part of what a digest is remembered under.
"""

import os
import time
from collections.abc import Iterable
from hashlib import file_digest
from pathlib import Path

from neobert.data.cache import key_of

SETTLED = 2.0
"""Seconds after a change from which on the file system's clock tells a further one."""


def file_digests(files: Iterable[Path], cache: Path) -> list[str]:
    """The SHA-256 of each file, remembered below ``cache``."""
    return [_digest(file, cache / "digests") for file in files]


def _digest(file: Path, folder: Path) -> str:
    state = file.stat()
    times = [state.st_mtime_ns, state.st_ctime_ns]
    known = folder / key_of(
        [str(file.resolve()), state.st_dev, state.st_ino, state.st_size, *times]
    )
    if known.is_file() and len(digest := known.read_text(errors="replace")) == 64:
        return digest
    with file.open("rb") as opened:
        digest = file_digest(opened, "sha256").hexdigest()
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
