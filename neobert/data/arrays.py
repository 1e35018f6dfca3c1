"""One-dimensional ``.npy`` files that are written block by block and mapped into memory."""

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import DTypeLike, NDArray


class ArrayWriter:
    """Writes an ``.npy`` file of numbers whose count is not known before the end."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self.dtype, self._count = np.dtype(dtype), 0
        self._file = path.open("wb")
        self._write_header()

    def append(self, numbers: NDArray[np.generic]) -> None:
        """Add these numbers at the end."""
        block = np.ascontiguousarray(numbers, dtype=self.dtype)
        self._file.write(block.data)
        self._count += len(block)

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._file.seek(0)
            self._write_header()  # numpy leaves room in it for a longer number
        self._file.close()

    def _write_header(self) -> None:
        kind = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": kind, "fortran_order": False, "shape": (self._count,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def open_array(path: Path) -> NDArray[np.signedinteger]:
    """The numbers of an ``.npy`` file, mapped into memory.

    A plain view: indexing numpy's class of memory maps takes a microsecond more for each number.
    """
    mapped: NDArray[np.signedinteger] = np.load(path, mmap_mode="r").view(np.ndarray)
    return mapped
