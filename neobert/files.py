"""Files and folders that are written completely or not at all, and read without surprises."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from neobert.console import get_logger
from neobert.errors import ConfigError, RunError

log = get_logger(__name__)

TEMPORARY = ".incomplete-"
"""Prefix of folders that are being written, or that a crash left half-written."""

REPLACED = ".replaced-"
"""Prefix of a folder that is being replaced; a crash may leave it the only copy."""

LARGEST_TEXT = 16 * 2**20
"""Bytes of the largest configuration, manifest or index that is read; real ones have thousands."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an error.

    A crash leaves ``path`` as it was or complete, also after a power failure.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8); ``path`` is either the old file or the complete new one."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(values: object, path: Path) -> None:
    """Write readable JSON atomically."""
    write_atomically(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def publish_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes ``folder`` when the block ends without an error.

    What is in ``folder`` then is deleted with ``replace``, else set aside. Files get the mode that
    the umask gives (safetensors makes its own private). An error leaves nothing behind.
    """
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        mode = temporary.stat().st_mode & 0o666
        for file in (path for path in temporary.rglob("*") if path.is_file()):
            file.chmod(mode)
            _to_disk(file)
        _give_name(temporary, folder, replace)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def set_aside(path: Path) -> Path:
    """Rename ``path`` to ``<name>.old-1``, or the next number that is free; return that path."""
    old = free_name(path)
    path.rename(old)
    return old


def free_name(path: Path) -> Path:
    """``<name>.old-1`` beside ``path``, or the next number that is free."""
    number = 1
    while (old := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return old


def user_path(path: str | Path) -> Path:
    """The path that a user wrote, in which ``~`` is the home directory.

    ``~somebody`` stays where there is no such user, for which ``Path.expanduser`` raises.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashingFile:
    """A binary file being written, whose SHA-256 needs no second reading."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def write(self, data: "bytes | bytearray | memoryview") -> int:
        """Append ``data``."""
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    @property
    def sha256(self) -> str:
        """Digest of what has been written."""
        return self._digest.hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def root_cause(error: BaseException) -> BaseException:
    """The error that the others came from."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk or an exhausted quota is at the root of ``error``."""
    cause = root_cause(error)
    if isinstance(cause, OSError) and cause.errno is not None:
        return cause.errno in DISK_FULL
    # Rust's libraries (tokenizers, safetensors) raise errors of their own; numpy's have no number:
    # "10000 requested and 496 written".
    signs = [" requested and ", *(f"os error {number})" for number in DISK_FULL)]
    return any(sign in str(cause) for sign in signs)


@contextmanager
def explaining(explain: Callable[[BaseException], Exception]) -> Iterator[None]:
    """Raise what ``explain`` makes of whatever a library raises on a user's data.

    Some libraries raise bare ``Exception`` (tokenizers), run out of recursion or memory on nested
    files, or panic (Rust). ``ConfigError`` and ``RunError`` are raised as they are.
    """
    try:
        yield
    except (ConfigError, RunError):
        raise
    except BaseException as error:
        # A panic of Rust code is no Exception; Ctrl-C and the like are none either.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise explain(error) from error


def reading(path: Path | str, key: str) -> AbstractContextManager[None]:
    """Turn whatever a library raises on a user's file into one ``ConfigError`` line.

    ``key`` is the setting that names the file, e.g. ``tokenizer.path``.
    """
    return explaining(
        lambda error: ConfigError(f"{key}={path}: cannot be read ({first_line(error)})")
    )


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """Text of a UTF-8 file, without its byte-order mark.

    Raises ``OSError`` or ``ValueError`` if it is no regular file (a FIFO would block for ever), has
    more than ``largest`` bytes, or is not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return content.decode("utf-8-sig")


def read_json(path: Path, largest: int = LARGEST_TEXT) -> object:
    """Values of a JSON file.

    Raises ``OSError`` or ``ValueError``, also for one that is nested too deep; see
    :func:`read_text`.
    """
    try:
        return json.loads(read_text(path, largest))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


LATEST = ("latest", "auto", "true")
"""Values of a key that select the newest undamaged checkpoint of a run."""

SUMMARY = "summary.json"
"""File in the folder of a finished run: its results, and how it was run."""


def read_summary(folder: Path) -> dict[str, object] | None:
    """``summary.json`` of a run; ``None`` if it has none that can be read, so is not finished."""
    try:
        summary = read_json(folder / SUMMARY)
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def summaries_below(folder: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """Every finished run below ``folder``: its folder and its summary."""
    for path in sorted(folder.glob(f"**/{SUMMARY}")):
        if (summary := read_summary(path.parent)) is not None:
            yield path.parent, summary


def _give_name(temporary: Path, folder: Path, replace: bool) -> None:
    if not folder.exists():
        temporary.rename(folder)
    elif replace:
        replaced = folder.with_name(f"{REPLACED}{folder.name}")
        folder.rename(replaced)
        temporary.rename(folder)
        shutil.rmtree(replaced)
    else:
        if any(folder.iterdir()):
            log.warning("%s was not empty; what it held is in %s now", folder, set_aside(folder))
        else:
            folder.rmdir()
        temporary.rename(folder)
    _to_disk(folder.parent)


def _to_disk(path: Path) -> None:
    """Flush to the device: a power failure can leave a complete name with zeros in the file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
