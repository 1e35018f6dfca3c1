"""Bad files: the error says which file, which line, which key; sound ones beside them are read."""

import bz2
import gc
import gzip
import json
import lzma
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from neobert.config.dataset import DatasetConfig
from neobert.data.rows import iter_rows
from neobert.data.sources import open_source
from neobert.errors import ConfigError

# datasets leaves files open when reading a stream ends early.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True, scope="module")
def _close_files() -> Iterator[None]:
    yield
    gc.collect()


def read(path: Path, cache: Path, **settings: object) -> list[str]:
    source = open_source(DatasetConfig(path=str(path), **settings), cache, seed=0)
    return list(source.train.texts())


def write_parquet(path: Path, values: list[object], column: str = "text") -> None:
    parquet.write_table(pa.table({column: values}), path, row_group_size=2)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def damage_inside(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8:24] = b"\xff" * 16
    path.write_bytes(bytes(data))


GOOD = {
    "text": ("a.txt", b"one line\n\nanother\n", ["one line", "", "another"]),
    "jsonl": ("a.jsonl", b'{"text": "one"}\n{"text": null}\n', ["one", ""]),
    "json": ("a.json", b'[{"text": "one"}, {"text": "two"}]', ["one", "two"]),
    "csv": ("a.csv", b'text,x\n"one, two",1\n', ["one, two"]),
    "tsv": ("a.tsv", b"text\tx\none, two\t1\n", ["one, two"]),
    "gzip": ("a.jsonl.gz", gzip.compress(b'{"text": "one"}\n'), ["one"]),
    "xz": ("a.txt.xz", lzma.compress(b"one\ntwo\n"), ["one", "two"]),
    "bzip2": ("a.csv.bz2", bz2.compress(b"text\none\n"), ["one"]),
    "other columns": ("a.jsonl", b'{"n": 1, "content": "c"}\n', ["c"]),
}


@pytest.mark.proves("dataset.path")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("name", "content", "expected"), GOOD.values(), ids=GOOD.keys())
def test_every_format_is_read_alike_as_a_whole_and_as_a_stream(
    tmp_path: Path, name: str, content: bytes, expected: list[str], streaming: bool
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)
    assert read(tmp_path / "data", tmp_path / "cache", streaming=streaming) == expected


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_is_read(tmp_path: Path, streaming: bool) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", "two", "three"])
    found = read(tmp_path / "a.parquet", tmp_path / "cache", streaming=streaming)
    assert found == ["one", "two", "three"]


BAD = {
    "a line that is not UTF-8": ("a.txt", b"good\nna\xefve\n", r"a\.txt, line 2: not UTF-8.*0xef"),
    "JSON cut off": ("a.jsonl", b'{"text": "a"}\n{"text": "b', r"a\.jsonl, line 2: not valid JSON"),
    "JSON that is not UTF-8": (
        "a.jsonl",
        b'{"text": "na\xefve"}\n',
        r"a\.jsonl, line 1: not UTF-8",
    ),
    "mixed types": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": 3}\n',
        r"a\.jsonl: row 1 is not a string but int \('3'",
    ),
    "a column of numbers": ("a.jsonl", b'{"text": 1}\n', "row 0 is not a string but int"),
    "CSV with a field too many": ("a.csv", b"text,x\na,1\nb,2,3\n", r"a\.csv, line 3: 3 fields"),
    "CSV with the column twice": ("a.csv", b"text,text\na,b\n", r"a\.csv.*text more than once"),
    "TSV with the column twice": ("a.tsv", b"x\ttext\ttext\na\tb\tc\n", r"text more than once"),
    "no column of text": ("a.csv", b"body,x\nhello,1\n", r"dataset\.text_column.*body, x"),
    "an empty file": ("a.txt", b"", r"a\.txt: empty"),
    "an unknown format": ("a.docx", b"x", r"holds \.docx; one of"),
    "no parquet": ("a.parquet", b"PAR1abcdef", r"a\.parquet: damaged or cut off"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_by_file_and_line(
    tmp_path: Path, name: str, content: bytes, message: str, streaming: bool
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "data", tmp_path / "cache", streaming=streaming)


def test_of_a_parquet_file_only_what_is_read_is_in_memory(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    texts = pa.array([draw.bytes(1024).hex() for _ in range(16_000)])  # 32 MiB
    parquet.write_table(
        pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=2_000, compression="none"
    )
    tracemalloc.start()
    rows = iter_rows([tmp_path / "a.parquet"], "dataset.path")
    assert sum(len(row["text"]) for row in rows) == 32 * 1024 * 1000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12 * 2**20


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("damage", [cut_off, damage_inside])
def test_a_damaged_parquet_file_among_good_ones_is_named(
    tmp_path: Path, damage: object, streaming: bool
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        write_parquet(folder / f"part-{number}.parquet", [f"text {n}" for n in range(6)])
    damage(folder / "part-1.parquet")
    with pytest.raises(ConfigError, match=r"part-1\.parquet: damaged or cut off"):
        read(folder, tmp_path / "cache", streaming=streaming)


def test_an_empty_file_among_others_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("one\n")
    (tmp_path / "data" / "b.txt").write_text("")
    with caplog.at_level("WARNING", logger="neobert"):
        assert read(tmp_path / "data", tmp_path / "cache", streaming=False) == ["one"]
    assert "b.txt is empty" in caplog.text


def test_files_in_hidden_folders_are_no_text(tmp_path: Path) -> None:
    for folder in ("data", "data/.ipynb_checkpoints", "data/more"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(f"{folder}\n")
    assert read(tmp_path / "data", tmp_path / "cache", streaming=False) == ["data", "data/more"]


def test_one_line_says_which_file_went_where(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a.txt", "testimony.txt", "my.dev.txt", "test-1.txt"):
        (tmp_path / "data" / name).write_text("one\n")
    with caplog.at_level("INFO", logger="neobert"):
        read(tmp_path / "data", tmp_path / "cache", streaming=False)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(
        "data: train: a.txt, testimony.txt; validation: my.dev.txt; test (not read): test-1.txt"
    )


@pytest.mark.parametrize("path", ["data", "data/*/*.txt"])
def test_files_of_one_name_are_told_apart_by_their_folders(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    for split in ("training", "Held-Out", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "a.txt").write_text(f"{split}\n")
    with caplog.at_level("INFO", logger="neobert"):
        assert read(tmp_path / path, tmp_path / "cache", streaming=False) == ["training"]
    (line,) = [record.getMessage() for record in caplog.records]
    for part in ("train: training/a.txt", "validation: Held-Out/a.txt", "(not read): test/a.txt"):
        assert part in line


@pytest.mark.parametrize("path", ["data", "data/*"])
def test_a_broken_link_is_refused_and_a_pipe_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("one\n")
    (tmp_path / "data/README").symlink_to("nowhere")  # no data
    os.mkfifo(tmp_path / "data/pipe.txt")
    assert read(tmp_path / path, tmp_path / "cache") == ["one"]
    assert "pipe.txt is no regular file and left out" in caplog.text
    (tmp_path / "data/b.txt").symlink_to(tmp_path / "unmounted/b.txt")
    with pytest.raises(ConfigError, match=r"b\.txt: is a link to .*unmounted/b\.txt, which does"):
        read(tmp_path / path, tmp_path / "cache")


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.path=.*nowhere: there is no such"):
        read(tmp_path / "nowhere", tmp_path / "cache")


@pytest.mark.parametrize(
    "files",
    [
        {"a.txt": "one\n", "b.jsonl": json.dumps({"text": "two"})},
        {"a.csv": "text\none, two\n", "b.tsv": "text\tlabel\nthree\t1\n"},  # two separators
    ],
)
def test_two_kinds_in_a_folder_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, text in files.items():
        (tmp_path / "data" / name).write_text(text)
    with pytest.raises(ConfigError, match="one kind in a folder"):
        read(tmp_path / "data", tmp_path / "cache")
