"""One run per folder: a second one that would write into it is refused.

The claim is a POSIX record lock: it ends with the process, however that ends, and forked loader
processes do not hold it.
"""

import fcntl
import os
from pathlib import Path

from neobert.errors import ConfigError

LOCK = ".claimed"

_claims: dict[Path, int] = {}


def claim(folder: Path) -> None:
    """Claim ``folder`` for this process until it ends; claiming it again changes nothing.

    Raises ``ConfigError`` if another process has it.
    """
    key = folder.resolve()
    if _claims.get(key, -1) == _inode(key / LOCK):
        return
    file = os.open(key / LOCK, os.O_RDWR | os.O_CREAT)  # stays open: closing it ends the claim
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise ConfigError(
            f"trainer.output_dir={folder}: another run is writing into it; wait for its end, "
            "or choose another folder"
        ) from error
    _claims[key] = _inode(key / LOCK)


def _inode(file: Path) -> int:
    return file.stat().st_ino if file.exists() else -2
