"""What one process of a machine finds out for all processes of its job, before they are connected.

The processes share a file in the temporary folder. A result is used by those that were running when
it was written (started together by torchrun or SLURM) and by those that its writer has started; so
one of an earlier start is never used.
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from neobert.files import write_json

_asked: Counter[str] = Counter()
"""How often this process has asked each question: the answer may change from run to run."""


def once_per_node(question: str, find: Callable[[], Path | None]) -> Path | None:
    """The result of ``find``, which the first process of this machine calls that needs it.

    The others wait. If it raises, nothing is shared and the next process calls it.
    """
    folder = Path(tempfile.gettempdir()) / f"neobert-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # another user could answer
        return find()
    _asked[question] += 1
    name = sha256(f"{_asked[question]} {question}".encode()).hexdigest()
    file = folder / f"{name}.json"
    with FileLock(file.with_suffix(".lock")):
        if file.exists():
            shared = json.loads(file.read_text())
            if shared["process"] == os.getppid() or shared["time"] > _started():
                return None if shared["result"] is None else Path(shared["result"])
        path = find()
        result = None if path is None else str(path)
        write_json({"process": os.getpid(), "time": time.time(), "result": result}, file)
        return path


def _started() -> float:
    """When this process was started, in seconds since 1970."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:  # not Linux
        return time.time()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
