"""A file is read in parts: no document is lost, doubled or moved, and readers need not share it."""

import gzip
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from neobert.config.dataset import DatasetConfig
from neobert.data import file_parts
from neobert.data.curriculum import MaskRate
from neobert.data.file_parts import FilePart, split_files
from neobert.data.loading import documents_of, open_data
from neobert.data.masking import Masking
from neobert.data.packing import Packing
from neobert.data.sources import open_source
from neobert.data.steps import Share, Steps
from neobert.data.stream import StreamBatches
from neobert.data.stream_readers import StreamRows
from neobert.data.stream_source import StreamSource
from neobert.data.token_rows import RowMaker
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError

DOCUMENTS = [f"{number} " + "naïve ✓ " * (number * 7 % 13) for number in range(400)]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_parts, "SMALLEST", 512)
    monkeypatch.setattr(file_parts, "LINES", 2)


def write(folder: Path, suffix: str, documents: list[str]) -> Path:
    file = folder / f"corpus{suffix}"
    rows = [{"text": text} for text in documents]
    match suffix:
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist(rows), file, row_group_size=4)
        case ".jsonl":
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        case ".jsonl.gz":
            file.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
        case ".csv":
            file.write_text("text\n" + "".join(f'"{text}"\n' for text in documents))
        case ".json":
            file.write_text(json.dumps(rows, indent=1))
        case _:
            file.write_bytes("\r\n".join(documents).encode())  # no end of the last line
    return file


def read(parts: list[FilePart]) -> Iterator[object]:
    return chain.from_iterable(documents_of([part.path], "text", part.span) for part in parts)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
@pytest.mark.parametrize("readers", [2, 5, 8, 64])
def test_the_parts_have_the_documents_in_their_order(
    tmp_path: Path, suffix: str, readers: int
) -> None:
    file = write(tmp_path, suffix, DOCUMENTS)
    parts = split_files([file], readers)
    assert len(parts) > 1
    assert list(read(parts)) == DOCUMENTS


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_a_line_is_of_the_part_in_which_it_begins(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path, suffix, DOCUMENTS[:6])
    size = file.stat().st_size
    for edge in range(size + 1):
        spans = range(edge), range(edge, size)
        assert list(read([FilePart(file, len(one), one) for one in spans])) == DOCUMENTS[:6]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl.gz"])
def test_what_cannot_be_split_is_one_part(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path, suffix, DOCUMENTS)
    (part,) = split_files([file], 8)
    assert part.span is None
    assert [str(text).rstrip() for text in read([part])] == [text.rstrip() for text in DOCUMENTS]


def test_a_json_list_in_a_file_of_lines_is_one_part(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text(json.dumps([{"text": text} for text in DOCUMENTS], indent=1))
    assert [part.span for part in split_files([file], 8)] == [None]


def test_long_documents_make_fewer_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_parts, "LINES", 64)
    few = split_files([write(tmp_path, ".txt", [text * 40 for text in DOCUMENTS])], 64)
    assert len(few) == 4  # a divisor of the readers, of 64 documents at least


def stream_of(folder: Path, **settings: object) -> StreamSource:
    config = DatasetConfig(name="local", path=str(folder), streaming=True, **settings)
    source = open_data(config, folder).parts["train"]
    assert isinstance(source, StreamSource)
    return source


@pytest.mark.proves("dataset.stream_readers")
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_readers_of_one_file_have_parts_of_their_own(tmp_path: Path, suffix: str) -> None:
    documents = DOCUMENTS * 4
    write(tmp_path, suffix, documents)
    source = stream_of(tmp_path, stream_readers=8)
    assert source.num_groups(8) == 8
    assert list(source) == documents
    read_by = [
        [text for file in range(group, source.num_files, 8) for text in source.documents(file)]
        for group in range(8)
    ]
    assert sorted(chain.from_iterable(read_by)) == sorted(documents)
    assert max(map(len, read_by)) < 1.5 * min(map(len, read_by))


def test_a_place_in_a_part_is_found_again(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl", DOCUMENTS * 20)
    source = stream_of(tmp_path, stream_readers=8)
    everything = list(source.documents(5))
    (_, _), (rest, state) = islice(source.chunks(5, None), 2)
    again, _ = next(source.chunks(5, state))
    assert again == rest == everything[64:128]


def test_files_that_are_enough_are_not_split(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"part-{number}.txt").write_text("\n".join(DOCUMENTS))
    assert stream_of(tmp_path, stream_readers=8).num_files == 8


def groups_of(source: StreamSource, readers: int) -> list[list[object]]:
    """The documents of each group of readers."""
    groups = source.num_groups(readers)
    return [
        [text for file in source.files_of(group, groups) for text in source.documents(file)]
        for group in range(groups)
    ]


@pytest.mark.parametrize("sizes", [[100] * 12, [40, 900, 60, 300, 10, 10, 500, 80, 80, 200]])
def test_uneven_files_are_dealt_by_their_sizes_in_parts(tmp_path: Path, sizes: list[int]) -> None:
    numbers = iter(range(sum(sizes)))
    for file, size in enumerate(sizes):
        lines = [f"{number:05} {'river ' * 9}" for number in islice(numbers, size)]
        (tmp_path / f"part-{file:02}.txt").write_text("\n".join(lines) + "\n")
    source = stream_of(tmp_path, stream_readers=8)
    dealt = groups_of(source, 8)
    assert len(dealt) == 8
    assert sorted(chain.from_iterable(dealt)) == list(source)
    assert max(map(len, dealt)) < 1.25 * min(map(len, dealt))


def test_compressed_files_of_uneven_sizes_are_dealt_whole(tmp_path: Path) -> None:
    for file, size in enumerate([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120] * 4):
        lines = [
            json.dumps({"text": f"{file} {number} {(file * 977 + number) ** 5}"})
            for number in range(size)
        ]
        (tmp_path / f"part-{file:02}.jsonl.gz").write_bytes(
            gzip.compress("\n".join(lines).encode())
        )
    source = stream_of(tmp_path, stream_readers=8)
    assert source.num_files == 48
    dealt = groups_of(source, 8)
    assert len(dealt) == 8
    assert sorted(chain.from_iterable(dealt)) == sorted(source)
    assert max(map(len, dealt)) < 1.25 * min(map(len, dealt))


def test_the_readers_of_too_few_files_share_them(tmp_path: Path) -> None:
    for file in range(12):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS)
        (tmp_path / f"part-{file:02}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert stream_of(tmp_path, stream_readers=8).num_groups(8) == 4


def test_a_damaged_line_is_reported_with_its_file(tmp_path: Path) -> None:
    file = write(tmp_path, ".jsonl", DOCUMENTS)
    file.write_text(file.read_text().replace('"300 ', '300 "'))
    with pytest.raises(ConfigError, match=r"corpus\.jsonl, line 301: not valid"):
        list(stream_of(tmp_path, stream_readers=8))


def test_a_row_that_is_no_text_is_counted_from_the_start_of_its_file(tmp_path: Path) -> None:
    file = write(tmp_path, ".jsonl", DOCUMENTS)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:390], "", lines[390], json.dumps({"text": 7})]))
    *_, last = [part.span for part in split_files([file], 8) if part.span is not None]
    assert 0 < file.read_bytes()[: last.start].count(b"\n") < 390
    with pytest.raises(ConfigError, match=r"jsonl: row 391 is not a string but int"):
        list(documents_of([file], "text", last))
    numbers = tmp_path / "numbers.parquet"
    parquet.write_table(pa.table({"text": list(range(40))}), numbers, row_group_size=4)
    with pytest.raises(ConfigError, match=r"parquet: row 20 is not a string but int"):
        list(documents_of([numbers], "text", range(5, 7)))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_row_of_ids_is_counted_from_the_start_of_its_file(
    tmp_path: Path, info: TokenizerInfo, suffix: str
) -> None:
    rows = [{"input_ids": [number % 50 + 5] * (1 + number % 9)} for number in range(600)]
    rows[555]["input_ids"] = [7, 10**6]
    file = tmp_path / f"corpus{suffix}"
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), file, row_group_size=10)
    config = DatasetConfig(name="local", path=str(tmp_path), streaming=True, stream_readers=4)
    source = open_source(config, tmp_path, seed=0)
    assert source.stream is not None
    assert source.stream.num_groups(4) == 4
    masking = Masking(MaskRate.constant(0.2), False, info.mask_token_id, info.random_ids, seed=3)
    maker = RowMaker(info, masking, Packing(32, 32, info.wrapping, packed=True, truncate=False))
    stream = StreamRows(source.stream, source.train, maker, shuffled=40, readers=4)
    batches = StreamBatches([stream], Steps(Share(8, 1)))
    with pytest.raises(ConfigError, match=rf"corpus\{suffix}: row 555 has the id 1000000, "):
        list(islice(batches.micro_batches(), 60))
