"""One table of awkward files, read by every task and tool that reads rows: alike, or one error."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neobert.config.dataset import DatasetConfig
from neobert.config.mteb import LocalTask
from neobert.data.rows import iter_texts
from neobert.data.sources import open_source
from neobert.data.task_splits import open_splits
from neobert.errors import ConfigError
from neobert.tasks.contrastive.examples import read_examples
from neobert.tasks.contrastive.pair_sources import own_source
from neobert.tasks.glue.tasks import GlueTask
from neobert.tasks.mteb.local_rows import read_rows

# datasets leaves files open when reading a stream ends early.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def by_pretraining(file: Path, scratch: Path, streaming: bool = False) -> list[str]:
    config = DatasetConfig(path=str(file), streaming=streaming)
    return list(open_source(config, scratch, seed=0).train.texts())


def by_stream(file: Path, scratch: Path) -> list[str]:
    return by_pretraining(file, scratch, streaming=True)


def by_glue(file: Path, scratch: Path) -> list[str]:
    config = DatasetConfig(path=str(file), eval_split="train")
    task = GlueTask(texts=("text",), label_column="text", source="local", revision=None)
    return open_splits(task, "mine", config, scratch, 0).train["text"][:]


def by_contrastive(file: Path, scratch: Path) -> list[str]:
    columns = {"path": str(file), "query": "text", "positive": "text"}
    return [one.query for one in read_examples(own_source("mine", columns))]


def by_mteb(file: Path, scratch: Path) -> list[str]:
    spec = LocalTask(name="Mine", path=str(file), type="clustering", columns={"label": "text"})
    return read_rows(spec, "clustering", "test")["text"]


def by_tools(file: Path, scratch: Path) -> list[str]:
    return list(iter_texts(file, "texts"))


Reader = Callable[[Path, Path], list[str]]
READERS: list[Reader] = [by_pretraining, by_stream, by_glue, by_contrastive, by_mteb, by_tools]
OF_LINES: list[Reader] = [by_pretraining, by_stream, by_tools]
"""Those that read text files, which have no columns."""

BOM = b"\xef\xbb\xbf"
LONG = "long " * 40_000


def csv_of(*fields: str) -> bytes:
    return ("text,label\n" + "".join(f"{field},x\n" for field in fields)).encode()


def tsv_of(*fields: str) -> bytes:
    return ("text\tlabel\n" + "".join(f"{field}\tx\n" for field in fields)).encode()


def json_lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text, "label": "x"}) + "\n" for text in texts).encode()


def parquet_of(array: pa.Array) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"n": [[1]] * len(array), "text": array, "label": ["x"] * len(array)})
    pq.write_table(table, sink)
    return sink.getvalue()


def zst_of(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return sink.getvalue().to_pybytes()


AB = ["alpha one", "beta two"]
MISSING = ["NA", "null", "None", "nan", "N/A", "NULL", "#N/A", "-"]
TYPED = ["007", "1e5", "TRUE", "2024-01-01", "1.10", "inf"]
UNICODE_ENDS = ["a\u2028b", "c\x0bd", "e\x85f", "g\x0ch", "\u00e9 \U0001f600"]
STRAY = ['"begins', 'in "side" it', 'ends"', '"both"', 'un"even']
MIXED = [{"text": "alpha one", "id": 1}, {"text": "beta two", "id": "b", "more": [None, {}]}]

GOOD: dict[str, tuple[str, bytes, list[str]]] = {
    "csv: byte-order mark": ("a.csv", BOM + csv_of(*AB), AB),
    "csv: quoted header after a byte-order mark": (
        "a.csv",
        BOM + b'"text","label"\n"alpha one","x"\n"beta two","x"\n',
        AB,
    ),
    "tsv: byte-order mark": ("a.tsv", BOM + tsv_of(*AB), AB),
    "jsonl: byte-order mark": ("a.jsonl", BOM + json_lines(*AB), AB),
    "json: byte-order mark": ("a.json", BOM + json.dumps([{"text": "alpha one"}]).encode(), AB[:1]),
    "csv: words like missing values": ("a.csv", csv_of(*MISSING), MISSING),
    "tsv: words like missing values": ("a.tsv", tsv_of(*MISSING), MISSING),
    "jsonl: words like missing values": ("a.jsonl", json_lines(*MISSING), MISSING),
    "csv: texts like numbers": ("a.csv", csv_of(*TYPED), TYPED),
    "csv: numbers, then text": ("a.csv", csv_of(*["1"] * 3000, "text"), ["1"] * 3000 + ["text"]),
    "tsv: texts like numbers": ("a.tsv", tsv_of(*TYPED), TYPED),
    "tsv: quotation marks": ("a.tsv", tsv_of(*STRAY), STRAY),
    "tsv: all names quoted": ("a.tsv", b'"text"\t"label"\n"a\tb"\t"x"\n"c"\t"x"\n', ["a\tb", "c"]),
    "csv: quotes, commas, lines": (
        "a.csv",
        csv_of('"say ""hi"", then"', '"two\nlines"', 'in "side" it'),
        ['say "hi", then', "two\nlines", 'in "side" it'],
    ),
    "csv: a field of 200,000 characters": ("a.csv", csv_of(LONG, "b"), [LONG, "b"]),
    "tsv: a field of 200,000 characters": ("a.tsv", tsv_of(LONG, "b"), [LONG, "b"]),
    "csv: lines end with CR LF": ("a.csv", csv_of(*AB).replace(b"\n", b"\r\n"), AB),
    "tsv: lines end with CR LF": ("a.tsv", tsv_of(*AB).replace(b"\n", b"\r\n"), AB),
    "jsonl: lines end with CR LF": ("a.jsonl", json_lines(*AB).replace(b"\n", b"\r\n"), AB),
    "csv: CR alone": ("a.csv", csv_of("a\rb", '"c\rd"', "e"), ["a\rb", "c\rd", "e"]),
    "csv: CR and noncharacters": (
        "a.csv",
        csv_of("a\rb\ufdd0", '"c\ufdd0r\ufdd0n"', "\ufdd0\ufdd1"),
        ["a\rb\ufdd0", "c\ufdd0r\ufdd0n", "\ufdd0\ufdd1"],
    ),
    "tsv: CR alone": ("a.tsv", tsv_of("a\rb", "c"), ["a\rb", "c"]),
    "jsonl: CR alone": ("a.jsonl", json_lines("a\rb", "c"), ["a\rb", "c"]),
    "csv: other ends of lines": ("a.csv", csv_of(*UNICODE_ENDS), UNICODE_ENDS),
    "tsv: other ends of lines": ("a.tsv", tsv_of(*UNICODE_ENDS), UNICODE_ENDS),
    "jsonl: other ends of lines": (
        "a.jsonl",
        "".join(f"{json.dumps({'text': t}, ensure_ascii=False)}\n" for t in UNICODE_ENDS).encode(),
        UNICODE_ENDS,
    ),
    "jsonl: other columns of several types": (
        "a.jsonl",
        "\n".join(map(json.dumps, MIXED)).encode(),
        AB,
    ),
    "jsonl: blank lines, no end": (
        "a.jsonl",
        b"\n" + json_lines(*AB).replace(b"}\n{", b"}\n\n \n{"),
        AB,
    ),
    "jsonl: a whole pair of surrogates": (
        "a.jsonl",
        json_lines("\U0001f600 a", "b"),
        ["\U0001f600 a", "b"],
    ),
    "jsonl: half a pair in another column": ("a.jsonl", b'{"text": "a", "x": "\\ud83d"}\n', ["a"]),
    "json: a list": ("a.json", json.dumps([{"text": text} for text in AB]).encode(), AB),
    "json: a list over lines": (
        "a.json",
        json.dumps([{"text": t} for t in AB], indent=1).encode(),
        AB,
    ),
    "json: data": ("a.json", json.dumps({"data": [{"text": text} for text in AB]}).encode(), AB),
    "json: data and a version": (
        "a.json",
        json.dumps({"version": 1, "data": [{"text": text} for text in AB]}, indent=2).encode(),
        AB,
    ),
    "json: lines": ("a.json", json_lines(*AB), AB),
    "json: one row": ("a.json", b'{"text": "alpha one"}', AB[:1]),
    "jsonl: a list": ("a.jsonl", json.dumps([{"text": text} for text in AB]).encode(), AB),
    "capitals": ("A.CSV", csv_of(*AB), AB),
    "gzip": ("a.csv.gz", gzip.compress(csv_of(*AB)), AB),
    "gzip in capitals": ("A.JSONL.GZ", gzip.compress(json_lines(*AB)), AB),
    "two gzip members": (
        "a.jsonl.gz",
        gzip.compress(json_lines(AB[0])) + gzip.compress(json_lines(AB[1])),
        AB,
    ),
    "xz": ("a.tsv.xz", lzma.compress(tsv_of(*AB)), AB),
    "bzip2": ("a.jsonl.bz2", bz2.compress(BOM + json_lines(*AB)), AB),
    "zstandard": ("a.jsonl.zst", zst_of(json_lines(*AB)), AB),
    "two zstandard frames": (
        "a.csv.zst",
        zst_of(csv_of(AB[0])) + zst_of(b"beta two,x\n"),
        AB,
    ),
    "parquet": ("a.parquet", parquet_of(pa.array(AB)), AB),
    "parquet in capitals": ("A.PARQUET", parquet_of(pa.array(AB)), AB),
    "parquet: long strings": ("a.parquet", parquet_of(pa.array(AB, pa.large_string())), AB),
    "parquet: a dictionary": ("a.parquet", parquet_of(pa.array(AB).dictionary_encode()), AB),
    "parquet: compressed": ("a.parquet.gz", gzip.compress(parquet_of(pa.array(AB))), AB),
    "a name with signs of patterns": ("a[0]*?.csv", csv_of(*AB), AB),
}

LINES: dict[str, tuple[str, bytes, list[str]]] = {
    "byte-order mark": ("a.txt", BOM + b"a\nb\n", ["a", "b"]),
    "CR LF": ("a.txt", b"a\r\n\r\nb", ["a", "", "b"]),
    "CR alone": ("a.txt", b"a\rb\nc\n", ["a\rb", "c"]),
    "other ends of lines": ("a.text", "\n".join(UNICODE_ENDS).encode(), UNICODE_ENDS),
    "quotation marks and tabs": ("A.TXT", b'"a\tb\n c"\n', ['"a\tb', ' c"']),
    "zstandard": ("a.txt.zst", zst_of(b"a\nb\n"), ["a", "b"]),
}

NO_COLUMN = "has no column text|has none of text|not a string but list"
NESTED = b"[" * 100_000
BAD: dict[str, tuple[str, bytes, str]] = {
    "half a pair of surrogates": (
        "a.jsonl",
        json_lines("good") + b'{"text": "cut \\ud83d"}\n',
        r"line 2: text holds \\ud83d, half of a surrogate pair",
    ),
    "half a pair in capitals": ("a.jsonl", b'{"text": "\\uD83D"}\n', r"line 1: text holds \\ud83d"),
    "jsonl in latin-1": ("a.jsonl", b'{"text": "a"}\n{"text": "na\xefve"}\n', r"line 2: not UTF-8"),
    "csv in latin-1": (
        "a.csv",
        csv_of("a") + b"na\xefve,x\n",
        r"line 3: not UTF-8 \(byte 0xef",
    ),
    "tsv in latin-1": ("a.tsv", tsv_of("a") + b"na\xefve\tx\n", r"line 3: not UTF-8"),
    "csv in UTF-16": (
        "a.csv",
        csv_of(*AB).decode().encode("utf-16"),
        r"line 1: not UTF-8 but UTF-16",
    ),
    "jsonl in UTF-16 without a mark": (
        "a.jsonl",
        json_lines(*AB).decode().encode("utf-16-le"),
        r"line 1: not UTF-8 but UTF-16",
    ),
    "null": ("a.json", b"null", r"line 1: null, not a JSON object or a list"),
    "a number": ("a.json", b"3\n", r"line 1: a number, not a JSON object"),
    "nested brackets": ("a.json", NESTED, r"line 1: nested too deeply"),
    "a nested line": ("a.jsonl", json_lines("a") + NESTED + b"\n", r"line 2: nested too deeply"),
    "a nested value": (
        "a.jsonl",
        b'{"text": "a", "x": ' + NESTED + b"]" * len(NESTED) + b"}\n",
        r"line 1: nested too deeply",
    ),
    "a number of 10,000 digits": (
        "a.jsonl",
        b'{"text": ' + b"1" * 10_000 + b"}\n",
        r"line 1: not valid JSON",
    ),
    "lists as lines": ("a.jsonl", b'["a"]\n["b"]\n', r"line 1: a list, not a JSON object"),
    "a text as a line": ("a.jsonl", json_lines("a") + b'"b"\n', r"line 2: a string, not a JSON"),
    "a list of texts": ("a.json", b'["a", "b"]', r"element 1 of the list is a string"),
    "columns instead of rows": (
        "a.json",
        b'{"data": {"text": ["a"]}}',
        NO_COLUMN,
    ),
    "json cut off": ("a.json", b'[\n{"text": "a"},\n{"te', r"line 3: not valid JSON"),
    "jsonl cut off": ("a.jsonl", json_lines("a") + b'{"text": "b', r"line 2: not valid JSON"),
    "the first line is broken": ("a.jsonl", b'{"text": "a"\n{"text": "b"}\n', r"line 1: not valid"),
    "csv: an open quote": (
        "a.csv",
        csv_of("a", '"open', "b"),
        r"line 3: a quoted field .* not end",
    ),
    "csv: more after a quote": (
        "a.csv",
        csv_of("a", '"b" c'),
        r"line 3: a quoted field continues after",
    ),
    "csv: a field too many": ("a.csv", csv_of("a", "b,c"), r"line 3: 3 fields, the header has 2"),
    "tsv: a field too many": ("a.tsv", tsv_of("a", "b\tc"), r"line 3: 3 fields, the header has 2"),
    "no gzip": ("a.csv.gz", csv_of("a"), r"damaged or cut off \(Not a gzipped file"),
    "gzip cut off": ("a.jsonl.gz", gzip.compress(json_lines(LONG))[:-20], r"damaged or cut off"),
    "xz cut off": ("a.csv.xz", lzma.compress(csv_of(*AB))[:-20], r"damaged or cut off"),
    "bzip2 cut off": ("a.csv.bz2", bz2.compress(csv_of(*AB))[:-20], r"damaged or cut off"),
    "zstandard cut off": ("a.csv.zst", zst_of(csv_of(*AB))[:-5], r"damaged or cut off"),
    "no zstandard": ("a.csv.zst", csv_of(*AB), r"damaged or cut off"),
    "parquet cut off": ("a.parquet", parquet_of(pa.array(AB))[:-30], r"damaged or cut off"),
    "no such column": ("a.csv", b"body,x\na,b\n", NO_COLUMN),
}


@pytest.mark.parametrize("reader", READERS, ids=lambda one: one.__name__)
@pytest.mark.parametrize(("name", "content", "expected"), GOOD.values(), ids=GOOD)
def test_every_reader_gives_the_same_texts(
    tmp_path: Path, reader: Reader, name: str, content: bytes, expected: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert reader(tmp_path / name, tmp_path / "cache") == expected


@pytest.mark.parametrize("reader", OF_LINES, ids=lambda one: one.__name__)
@pytest.mark.parametrize(("name", "content", "expected"), LINES.values(), ids=LINES)
def test_every_reader_of_lines_gives_the_same_lines(
    tmp_path: Path, reader: Reader, name: str, content: bytes, expected: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert reader(tmp_path / name, tmp_path / "cache") == expected


@pytest.mark.parametrize("reader", READERS, ids=lambda one: one.__name__)
@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD)
def test_every_reader_has_one_error_with_setting_file_and_line(
    tmp_path: Path, reader: Reader, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        reader(tmp_path / name, tmp_path / "cache")
    (problem,) = error.value.problems
    assert str(tmp_path / name) in problem
    assert re.match(
        r"dataset\.|contrastive\.sources\.mine\.path|mteb_local\.Mine|texts|--text", problem
    )
    assert "\n" not in problem


@pytest.mark.parametrize("reader", READERS, ids=lambda one: one.__name__)
def test_no_reader_waits_for_a_pipe(tmp_path: Path, reader: Reader) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match=r"a\.jsonl.* is (neither|no regular)"):
        reader(tmp_path / "a.jsonl", tmp_path / "cache")


@pytest.mark.parametrize("reader", [by_pretraining, by_stream, by_glue, by_contrastive, by_mteb])
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, reader: Reader) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"a\.csv: empty"):
        reader(tmp_path / "a.csv", tmp_path / "cache")
