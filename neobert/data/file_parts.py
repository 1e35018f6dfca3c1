"""Parts of a local file that are read by themselves, so that processes need not share the file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neobert.data.rows import OPENERS, format_of, is_plain_parquet

PARTS = 4
"""Parts of each reader, at most: those of a large file are from all over it."""

FINE_PARTS = 16
"""Where the readers' shares would be uneven otherwise."""

SMALLEST = 2**16
"""Bytes of a part at least."""

LINES = 64
"""Lines of a part at least, on average."""

LOOKED_AT = 2**20
"""Bytes at the start of a file that show how long its lines are."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file, or a span of it."""

    path: Path
    size: int
    """Bytes, about."""

    span: range | None = None
    """Row groups of parquet, bytes of other files: a line belongs to the part it begins in."""


def split_files(files: Sequence[Path], readers: int, most: int = PARTS) -> list[FilePart]:
    """Parts of ``files`` that ``readers`` can share, ``most`` of each, in the order of the
    documents.

    Parquet is split at row groups, text and JSON lines at line ends; compressed files, csv, tsv and
    json that may be one value are not split.
    """
    ends = np.maximum(1, np.cumsum([file.stat().st_size for file in files]))
    count = min(most * readers, sum(map(_most_parts, files)))
    if count >= readers:
        count -= count % readers
    else:
        count = next(n for n in range(max(1, count), 0, -1) if readers % n == 0)
    shares = np.diff(np.round(count * ends / ends[-1]), prepend=0).astype(int).tolist()
    parts = [_split(file, share) for file, share in zip(files, shares, strict=True)]
    return list(chain.from_iterable(parts))


def _most_parts(file: Path) -> int:
    if is_plain_parquet(file):
        return len(_row_groups(file))
    if not _has_rows_in_lines(file):
        return 1
    with file.open("rb") as source:
        start = source.read(LOOKED_AT)
    mean = len(start) // max(1, start.count(b"\n"))
    return file.stat().st_size // max(SMALLEST, LINES * mean)


def _split(file: Path, count: int) -> list[FilePart]:
    size = file.stat().st_size
    if count > 1 and is_plain_parquet(file) and (sizes := _row_groups(file)):
        spans = _spans(len(sizes), count)
        return [FilePart(file, sum(sizes[span.start : span.stop]), span) for span in spans]
    if count > 1 and _has_rows_in_lines(file):
        return [FilePart(file, len(span), span) for span in _spans(size, count)]
    return [FilePart(file, size)]


def _row_groups(file: Path) -> list[int]:
    """Bytes of each; none of a damaged file, which is an error where it is read."""
    try:
        data = pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return []
    return [data.row_group(number).total_byte_size for number in range(data.num_row_groups)]


def _has_rows_in_lines(file: Path) -> bool:
    kind, suffix = format_of(file), file.suffix.lower()
    if suffix in OPENERS or kind == "text":
        return suffix not in OPENERS
    if kind != "json" or suffix == ".json":
        return False
    with file.open("rb") as source:
        try:
            return isinstance(json.loads(source.readline(LOOKED_AT)), dict)
        except ValueError:
            return False


def _spans(length: int, count: int) -> list[range]:
    """``count`` neighbouring spans; the longer ones come first, so that they are dealt evenly."""
    count = min(count, length)
    small, longer = divmod(length, count)
    ends = accumulate([small + 1] * longer + [small] * (count - longer), initial=0)
    return [range(start, stop) for start, stop in pairwise(ends)]
