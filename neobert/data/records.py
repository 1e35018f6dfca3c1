"""Rows of text formats: lines, csv, tsv and JSON, decoded and checked, each with its line number.

The rules are those of :mod:`neobert.data.rows`, which opens the files.
"""

import csv
import json
from collections.abc import Collection, Iterable, Iterator
from io import BufferedIOBase
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

Row = dict[str, object]
"""Column -> value."""

LONGEST_LINE = 2**28
"""Bytes of the longest line that is read: a device or a binary file has no lines."""

LARGEST_DOCUMENT = 2**30
"""Characters of the largest json file that is a single list or object, which memory has to hold."""

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NONCHARACTER, RETURN, ITSELF = "\ufdd0", "\ufdd0r", "\ufdd0n"
"""Stand for ``\\r`` and the first while the csv module, to which ``\\r`` ends a line, reads."""


@runtime_checkable
class ByteLines(Protocol):
    """A file of bytes, compressed or not, or standard input."""

    def readline(self, size: int = -1, /) -> bytes:
        """The bytes up to the end of the line, at most ``size``."""


class FaultError(ValueError):
    """What is wrong at the current line."""


class Lines:
    """Lines of a file with their ends, decoded; ``number`` counts from 1."""

    def __init__(self, source: ByteLines) -> None:
        self.source, self.number = source, 0
        self.has_surrogates = False
        """Whether a line so far has the escape of a surrogate."""

    @property
    def number_in_file(self) -> int:
        """``number``, counted from the start of a file of which only a span is read."""
        source = self.source
        return self.number + (source.lines_before() if isinstance(source, LinesOfSpan) else 0)

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        raw = self.source.readline(LONGEST_LINE + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        self.has_surrogates = self.has_surrogates or b"\\ud" in raw or b"\\uD" in raw
        if len(raw) > LONGEST_LINE:
            raise FaultError(f"is longer than {LONGEST_LINE:,} bytes")
        if self.number == 1:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
            if raw.startswith(UTF_16) or raw[:4096].count(0) * 4 > len(raw[:4096]):
                raise FaultError("not UTF-8 but UTF-16 or no text at all; convert it to UTF-8")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            byte, start = raw[error.start], error.start
            raise FaultError(
                f"not UTF-8 (byte 0x{byte:02x} at {start}); convert the file to UTF-8"
            ) from error


class LinesOfSpan:
    """The lines of a file that begin within some bytes of it."""

    def __init__(self, source: BufferedIOBase, span: range, file: Path) -> None:
        self.source, self.file = source, file
        self.start, self.stop = span.start, span.stop
        if span.start:
            source.seek(span.start - 1)
            source.readline()  # the rest of a line of the part before
            self.start = source.tell()

    def readline(self, size: int = -1, /) -> bytes:
        """The next line; nothing at the end of the span."""
        return self.source.readline(size) if self.source.tell() < self.stop else b""

    def lines_before(self) -> int:
        """Lines of the file before the span; reads them, for a message."""
        remaining, lines = self.start, 0
        with self.file.open("rb") as file:
            while remaining > 0 and (read := file.read(min(remaining, 2**20))):
                remaining -= len(read)
                lines += read.count(b"\n")
        return lines


def stdin_lines(source: ByteLines) -> Iterator[str]:
    """The lines of standard input as they come, without their ends, by the rules of text files.

    Raises ``ValueError`` that names the line where it is not UTF-8.
    """
    place = Lines(source)
    try:
        for line in place:
            yield without_end(line)
    except FaultError as fault:
        raise ValueError(f"standard input, line {place.number}: {fault}") from fault


def text_rows(text: Lines) -> Iterator[Row]:
    """A row per line, an empty one too, with the column ``text``."""
    for line in text:
        yield {"text": without_end(line)}


def tagged_rows(text: Lines, kind: str) -> Iterator[Row]:
    """Rows of CoNLL files, ``tokens`` and ``tags``: a word a line, a blank line after each row.

    Columns are parted by tabs or spaces; the first is the word and the last its tag. CoNLL-U has
    the word in its second and the universal part of speech in its fourth column.
    """
    words: list[str] = []
    tags: list[str] = []
    for raw in text:
        line = without_end(raw)
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                yield {"tokens": words, "tags": tags}
            words, tags = [], []
            continue
        if line.startswith("# ") and kind == "conllu":
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        least, word, tag = (4, 1, 3) if kind == "conllu" else (2, 0, -1)
        if len(fields) < least:
            raise FaultError(f"{len(fields)} columns, a word and its tag need {least}")
        if kind == "conllu" and not fields[0].isdecimal():
            continue  # a contraction or an empty node, whose words follow
        words.append(fields[word])
        tags.append(fields[tag])
    if words:
        yield {"tokens": words, "tags": tags}


def without_end(line: str) -> str:
    """``line`` without its ``\\n`` or ``\\r\\n``."""
    return line.removesuffix("\n").removesuffix("\r")


def separated_rows(text: Lines, kind: str, columns: Collection[str] | None) -> Iterator[Row]:
    """Rows of csv or tsv by the names in the header, as strings; blank lines are left out.

    None of ``columns`` may be in the header twice: which of the two is meant is ambiguous.
    """
    records = separated(text, kind)
    header = next(records, [])
    if twice := [name for name in columns or () if header.count(name) > 1]:
        raise FaultError(f"the header has the column {twice[0]} more than once")
    for record in records:
        if not record or record == [""]:
            continue  # a blank line
        if len(record) > len(header):
            raise FaultError(f"{len(record)} fields, the header has {len(header)}")
        yield dict(zip_longest(header, record))


def separated(text: Lines, kind: str) -> Iterator[list[str]]:
    """The fields of each row; the header is the first."""
    if kind == "csv":
        yield from _quoted(text, text, ",")
        return
    header = next(text, None)
    if header is None:
        return
    names = without_end(header).split("\t")
    if all(len(name) > 1 and name[0] == name[-1] == '"' for name in names):
        yield from _quoted(chain([header], text), text, "\t")
        return
    yield names
    for line in text:
        yield without_end(line).split("\t")


def _quoted(lines: Iterable[str], text: Lines, delimiter: str) -> Iterator[list[str]]:
    # Documents of megabytes are ordinary; the length of a line is bounded already.
    csv.field_size_limit(LONGEST_LINE)
    records = csv.reader(map(_hide_returns, lines), delimiter=delimiter, strict=True)
    while True:
        first = text.number + 1
        try:
            record = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            last, text.number = text.number, first
            raise FaultError(_csv_problem(error, last)) from error
        yield [_show_returns(field) for field in record]


def _csv_problem(error: csv.Error, last: int) -> str:
    if "unexpected end" in str(error):
        return "a quoted field that begins in this row does not end"
    if "expected after" in str(error):
        return 'a quoted field continues after its end; a quotation mark within one is written ""'
    return f"{error} (up to line {last})"


def _hide_returns(line: str) -> str:
    body = line.removesuffix("\n").removesuffix("\r")
    end = line[len(body) :]
    return body.replace(NONCHARACTER, ITSELF).replace("\r", RETURN) + end


def _show_returns(field: str) -> str:
    if NONCHARACTER not in field:
        return field
    return field.replace(RETURN, "\r").replace(ITSELF, NONCHARACTER)


def json_rows(text: Lines, kept_whole: bool) -> Iterator[Row]:
    """Rows of JSON lines, or with ``kept_whole`` perhaps of one list or object over many lines."""
    filled = (line for line in text if line.strip())
    first, start = next(filled, ""), text.number
    second, after = next(filled, ""), text.number
    if first and not second:
        text.number = start
        yield from _document_rows(_parsed(first, text))
    elif first and (kept_whole or first.lstrip().startswith("[")) and not _is_complete(first):
        between = "\n" * (after - start - 1)
        yield from _document_rows(_parsed_document(first + between + second, text, start))
    elif first:
        text.number = start
        yield _object(_parsed(first, text))
        text.number = after
        yield _object(_parsed(second, text))
        for line in filled:
            yield _object(_parsed(line, text))


def _is_complete(line: str) -> bool:
    """Whether a JSON value ends in the line that it begins in."""
    try:
        json.loads(line)
    except ValueError:
        return False
    except RecursionError:  # parsing it once more reports that
        return True
    return True


def _parsed(content: str, text: Lines, first: int | None = None) -> object:
    """The value of the current line, or of all lines from ``first`` on."""
    try:
        return json.loads(content)
    except RecursionError:
        text.number = first or text.number
        raise FaultError("nested too deeply") from None
    except json.JSONDecodeError as error:
        if first is not None:
            text.number = first - 1 + error.lineno
        problem = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise FaultError(f"not valid JSON ({problem})") from error
    except ValueError as error:  # a number of thousands of digits
        raise FaultError(f"not valid JSON ({error})") from error


def _parsed_document(begin: str, text: Lines, first: int) -> object:
    """One JSON value that begins in line ``first`` and goes to the end of the file."""
    parts, size = [begin], len(begin)
    for line in text:
        parts.append(line)
        size += len(line)
        if size > LARGEST_DOCUMENT:
            raise FaultError(
                f"one JSON value of more than {LARGEST_DOCUMENT:,} characters, which memory would "
                "have to hold: write a row per line (jsonl)"
            )
    return _parsed("".join(parts), text, first)


def _document_rows(value: object) -> Iterator[Row]:
    """Rows of a whole file: a list, an object whose ``data`` is one, or one row."""
    inner: object = value
    if isinstance(value, dict):
        tables = [value["data"]] if "data" in value else list(value.values())
        is_table = len(tables) == 1 and isinstance(tables[0], list) and "data" in value
        is_table |= len(value) == 1 and _are_rows(tables[0])
        inner = tables[0] if is_table else [value]
    if not isinstance(inner, list):
        raise FaultError(f"{_kind_of(inner)}, not a JSON object or a list of them")
    for number, row in enumerate(inner, start=1):
        if not isinstance(row, dict):
            raise FaultError(f"element {number} of the list is {_kind_of(row)}, not a JSON object")
        yield from _questions(row) if isinstance(row.get("paragraphs"), list) else [row]


def _questions(article: Row) -> Iterator[Row]:
    """The questions of an article of SQuAD's own JSON, with their context; else the row itself."""
    paragraphs = cast(list[dict[str, Any]], article["paragraphs"])
    if not all(
        isinstance(paragraph, dict) and _are_rows(paragraph.get("qas", [{}]) or [{}])
        for paragraph in paragraphs
    ) or not any("qas" in paragraph for paragraph in paragraphs):
        yield article
        return
    for paragraph in paragraphs:
        context = {"title": article.get("title"), "context": paragraph.get("context")}
        for question in paragraph.get("qas") or []:
            yield {**context, **question}


def _are_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _object(value: object) -> Row:
    if not isinstance(value, dict):
        raise FaultError(f"{_kind_of(value)}, not a JSON object")
    return value


def _kind_of(value: object) -> str:
    kinds = {type(None): "null", list: "a list", str: "a string", bool: "true or false"}
    return kinds.get(type(value), "a number")


def check_surrogates(row: Row) -> None:
    """Half of an emoji, as text cut in two has it, is no character: nothing can encode it."""
    for name, value in row.items():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])[1:-1]
            raise FaultError(
                f"{name} holds {half}, half of a surrogate pair, which is no character"
            ) from error
