"""Rows of local files: jsonl, json, csv, tsv, parquet and text, plain or compressed.

Every task and tool that reads a user's files reads them here, so that one rule holds for all:

- Text is UTF-8; a byte-order mark at the start of a file is no part of it.
- A line ends with ``\\n`` or ``\\r\\n``. A ``\\r`` by itself is a character of the text.
- csv has quotes (RFC 4180), tsv has none unless all names in its header are quoted. Their values
  are strings: ``NA`` and ``null`` are words, and a field missing at the end of a line is null.
- json is a row per line, a list of rows, or an object whose ``data`` is that list.
- Only the columns that are needed are kept, so no other column can stop a run.
- What is wrong is one ``ConfigError`` with the setting, the file, and the line where there is one.
"""

import bz2
import gzip
import io
import lzma
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neobert.data.records import (
    FaultError,
    Lines,
    LinesOfSpan,
    Row,
    check_surrogates,
    json_rows,
    separated,
    separated_rows,
    tagged_rows,
    text_rows,
    without_end,
)
from neobert.errors import ConfigError
from neobert.files import first_line

FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".text": "text",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".conllu": "conllu",
}
"""Suffix -> format; in any case, and with one of :data:`OPENERS` after it."""

RULES = 1
"""Version of how rows are made of files: part of the keys of everything that is cached."""

TABLES = ("parquet", "json", "csv", "tsv")
"""Formats with named columns."""

TOKEN_COLUMN = "input_ids"
"""Column of documents that are ids already."""

TAGGED = ("conll", "conllu")
"""Formats of words with tags, a word a line: columns ``tokens`` and ``tags``."""

DOCUMENTS = (*TABLES, "text")
"""Formats that a corpus of texts is read from."""

TEXT_COLUMNS = ("text", "sentence", "content")
"""Columns that hold the text where no setting names one; the first that exists is taken."""

LARGEST_PARQUET = 2**31
"""Bytes of the largest compressed parquet file once decompressed, which memory has to hold."""

ROWS_AT_A_TIME = 1000
STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d*)\]")


def format_of(file: Path) -> str | None:
    """The format that the suffixes of a file name state; ``None`` for another."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    if suffixes and suffixes[-1] in OPENERS:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def iter_rows(
    files: Iterable[Path],
    setting: str,
    columns: Collection[str] | None = None,
    span: range | None = None,
) -> Iterator[Row]:
    """The rows of ``files``, one file after the other, in bounded memory.

    ``columns`` are the top-level columns to keep (``None``: all); a row lacks those that its file
    does not have. ``span``: of each only these row groups (parquet) or the lines that begin within
    these bytes (text, JSON lines). Raises ``ConfigError``, beginning with ``setting`` (a key such
    as ``dataset.path``), for a file that cannot be read.
    """
    for file in files:
        with _opened(file, setting, span) as (source, lines):
            if format_of(file) == "parquet":
                yield from _parquet_rows(source, columns, span)
            else:
                yield from _line_rows(file, lines, columns)


def iter_values(
    files: Iterable[Path],
    setting: str,
    path: str,
    text_key: str | None = None,
    span: range | None = None,
) -> Iterator[object]:
    """One value per row: what ``path`` leads to (:func:`values_at`), null where it leads nowhere.

    Raises ``ConfigError`` also for a file in which it leads nowhere in any row, and with
    ``text_key``, the setting that names the column, for a value that is not a string.
    """
    columns = {path, root_column(path)}
    for file in files:
        has_rows = is_found = False
        for number, fields in enumerate(iter_rows([file], setting, columns, span)):
            values = values_at(fields, path)
            has_rows, is_found = True, is_found or bool(values)
            value = values[0] if values else None
            if text_key is not None and not isinstance(value, str | None):
                where = f"{setting}: {file}: row {number + rows_before(file, setting, span)}"
                raise not_text(where, value, text_key)
            yield value
        if has_rows and not is_found and span is None:
            raise lacks_columns(setting, file, [path], row_columns(file, setting))


def rows_before(file: Path, setting: str, span: range | None) -> int:
    """Rows of a file before ``span``; reads them, for a message."""
    return sum(1 for _ in iter_rows([file], setting, (), range(span.start))) if span else 0


def iter_texts(file: Path, setting: str, column: str | None = None) -> Iterator[str]:
    """The texts of a file: the lines of one whose name states no table, else a column.

    Null is an empty text. ``setting`` names the file; a missing column is a ``ConfigError``.
    """
    if format_of(file) not in TABLES:
        return _lines_of(file, setting)
    name = text_column(row_columns(file, setting), column, "--text-column", str(file))
    values = iter_values([file], setting, name, text_key="--text-column")
    return ("" if value is None else str(value) for value in values)


def _lines_of(file: Path, setting: str) -> Iterator[str]:
    """The lines of a file without their ends, whatever its name."""
    with _opened(file, setting, default="text") as (_, lines):
        yield from map(without_end, lines)


def read_table(
    files: Iterable[Path], setting: str, columns: Collection[str] | None = None
) -> pa.Table:
    """All rows of ``files`` as one table in memory; a column that some rows lack is null there.

    Parquet keeps its types, and what ``datasets`` noted about them (names of classes).
    """
    files = list(files)
    if files and all(is_plain_parquet(file) for file in files):
        tables = [_parquet_table(file, setting, columns) for file in files]
        try:
            return pa.concat_tables(tables, promote_options="default")
        except pa.ArrowException:  # other types: as values, below
            pass
    values: dict[str, list[object]] = {}
    count = 0
    for count, row in enumerate(iter_rows(files, setting, columns), start=1):
        for name, value in row.items():
            column = values.setdefault(name, [])
            column.extend([None] * (count - 1 - len(column)))
            column.append(value)
    for column in values.values():
        column.extend([None] * (count - len(column)))
    if not count and files:
        values = {name: [] for name in row_columns(files[0], setting)}
    return pa.table({name: _array(name, column, files, setting) for name, column in values.items()})


def row_columns(file: Path, setting: str) -> list[str]:
    """The columns of a file: of its schema, its header, or its first row."""
    with _opened(file, setting) as (source, lines):
        match format_of(file):
            case "parquet":
                return list(pq.ParquetFile(source).schema_arrow.names)
            case "text":
                return ["text"]
            case "conll" | "conllu":
                return ["tokens", "tags"]
            case "csv" | "tsv" as kind:
                return next(separated(lines, kind), [])
            case _:
                return list(next(json_rows(lines, _is_json(file)), {}))


def text_column(columns: Collection[str], requested: str | None, setting: str, origin: str) -> str:
    """Column of the text: ``requested``, else the first of :data:`TEXT_COLUMNS` that exists.

    ``requested`` may lead into a column (``doc.text``). Raises ``ConfigError``.
    """
    if requested is not None:
        if requested not in columns and root_column(requested) not in columns:
            raise ConfigError(
                f"{setting}={requested}: {origin} has the columns {', '.join(columns)}"
            )
        return requested
    column = next((name for name in TEXT_COLUMNS if name in columns), None)
    if column is None:
        has = f"none of {', '.join(TEXT_COLUMNS)}; its columns are {', '.join(columns)}"
        raise ConfigError(f"{setting}: {origin} has {has if columns else 'no row with a column'}")
    return column


def root_column(path: str) -> str:
    """The top-level column of a path: ``doc`` of ``doc.text`` and of ``doc[0]``."""
    return re.split(r"[.\[]", path)[0] or path


def values_at(row: Mapping[str, object], path: str) -> list[object]:
    """The values that a path leads to; none where it leads nowhere.

    A path is a column (``question``), a field (``set.query``), an element of a list (``set[0]``),
    all of them (``neg[]``, ``paras[].text``), or alternatives (``body|post``: the first that a row
    has). A column whose name is the whole path wins.
    """
    for alternative in path.split("|"):
        if alternative in row:
            return [row[alternative]]
        values: list[object] = [row]
        for name, index in STEP.findall(alternative):
            values = [inner for value in values for inner in _step(value, name, index)]
        if values:
            return values
    return []


def value_at(row: Mapping[str, object], path: str) -> object:
    """The first value that a path leads to, else ``None``."""
    return next(iter(values_at(row, path)), None)


def not_text(where: str, value: object, key: str) -> ConfigError:
    """The error for something else where a text belongs; ``key`` names the column."""
    return ConfigError(
        f"{where} is not a string but {type(value).__name__} ({str(value)[:40]!r}); name the "
        f"column of the text with {key}, or mend the row"
    )


def lacks_columns(
    setting: str, file: Path | str, missing: Iterable[str], columns: Iterable[str]
) -> ConfigError:
    """The error for a file without a needed column."""
    return ConfigError(
        f"{setting}: {file} has no column {', '.join(missing)}; its columns are "
        f"{', '.join(columns) or 'none'}"
    )


@contextmanager
def _opened(
    file: Path, setting: str, span: range | None = None, default: str | None = None
) -> Iterator[tuple[BufferedIOBase, Lines]]:
    """The bytes and the lines of a file; ``default``: its format where its name states none.

    Whatever is raised inside becomes one ``ConfigError`` with setting, file and line.
    """
    lines: Lines | None = None
    try:
        with _decompressed(file, default) as source:
            if span is None or format_of(file) == "parquet":
                lines = Lines(source)
            else:
                lines = Lines(LinesOfSpan(source, span, file))
            yield source, lines
    except ConfigError:
        raise
    except FaultError as error:
        place = f", line {lines.number_in_file}" if lines is not None else ""
        raise ConfigError(f"{setting}: {file}{place}: {error}") from error
    except Exception as error:
        place = f" after line {lines.number_in_file}" if lines and lines.number else ""
        what = "cannot be read" if isinstance(error, PermissionError) else "damaged or cut off"
        reason = first_line(error)
        raise ConfigError(f"{setting}: {file}: {what}{place} ({reason})") from error


def _line_rows(file: Path, lines: Lines, columns: Collection[str] | None) -> Iterator[Row]:
    """The rows of a text format, with the ``columns`` that are needed."""
    match kind := format_of(file):
        case "text":
            rows = text_rows(lines)
        case "json":
            rows = json_rows(lines, _is_json(file))
        case "conll" | "conllu":
            rows = tagged_rows(lines, kind)
        case _:
            rows = separated_rows(lines, str(kind), columns)
    for row in rows:
        read = row
        if columns is not None:
            read = {name: value for name, value in row.items() if name in columns}
        if lines.has_surrogates and kind == "json":
            check_surrogates(read)
        yield read


def _is_json(file: Path) -> bool:
    """Whether a file may be one JSON value over many lines, by its suffix."""
    return ".json" in (suffix.lower() for suffix in file.suffixes[-2:])


def _decompressed(file: Path, default: str | None) -> BufferedIOBase:
    """The bytes of a regular file; of parquet, something that can seek."""
    if not file.is_file():
        raise FaultError("is no regular file")
    if format_of(file) is None and default is None:
        raise FaultError(f"its name ends in none of {', '.join(FORMATS)}, also compressed")
    opened: BufferedIOBase = OPENERS.get(file.suffix.lower(), Path.open)(file, "rb")
    if format_of(file) != "parquet" or is_plain_parquet(file):
        return opened
    with opened:
        content = opened.read(LARGEST_PARQUET + 1)
    if len(content) > LARGEST_PARQUET:
        raise FaultError(f"more than {LARGEST_PARQUET:,} bytes: decompress it (parquet is packed)")
    return io.BytesIO(content)


def _zstandard(file: Path, mode: str) -> BufferedIOBase:
    return io.BufferedReader(pa.input_stream(str(file), compression="zstd"))


OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
    ".zst": _zstandard,
}
"""Suffix of a compressed file -> what opens it."""


def _parquet_rows(
    source: BufferedIOBase, columns: Collection[str] | None, span: range | None
) -> Iterator[Row]:
    # By default all row groups are read ahead and stay in memory until the file is closed.
    file = pq.ParquetFile(source, pre_buffer=False, buffer_size=2**20)
    read = [name for name in file.schema_arrow.names if columns is None or name in columns]
    groups = list(range(file.num_row_groups) if span is None else span)
    for batch in file.iter_batches(ROWS_AT_A_TIME, groups, columns=read):
        yield from batch.to_pylist() if read else ({} for _ in range(batch.num_rows))


def is_plain_parquet(file: Path) -> bool:
    """Whether a file is parquet that is not compressed as a whole."""
    return file.suffix.lower() == ".parquet"


def _parquet_table(file: Path, setting: str, columns: Collection[str] | None) -> pa.Table:
    with _opened(file, setting) as (source, _):
        opened = pq.ParquetFile(source)
        read = [name for name in opened.schema_arrow.names if columns is None or name in columns]
        return opened.read(columns=read)


def _array(name: str, values: list[object], files: list[Path], setting: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        where = ", ".join(map(str, files[:3]))
        raise ConfigError(
            f"{setting}: {where}: values of {name} differ in type ({reason})"
        ) from error


def _step(value: object, name: str, index: str) -> list[object]:
    if name:
        return [value[name]] if isinstance(value, Mapping) and name in value else []
    if not isinstance(value, list):
        return []
    return list(value) if index == "" else value[int(index) : int(index) + 1]
