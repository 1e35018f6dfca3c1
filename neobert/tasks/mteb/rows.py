"""Rows of local tasks: from jsonl, parquet, csv or tsv to columns of the names that are wanted."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from neobert.config.checks import ConfigError
from neobert.config.mteb import COLUMNS, LocalTask

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")

Columns = Mapping[str, list]
"""Name -> values, one per row."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Queries, documents, and which answer which."""

    queries: list[dict[str, str]]
    """``id`` and ``text``."""

    corpus: list[dict[str, str]]
    """``id`` and ``text``, perhaps ``title``."""

    relevant: dict[str, dict[str, int]]
    """Query -> document -> how relevant it is, 1 or more."""


@dataclass(frozen=True, slots=True)
class ValueKind:
    """What a column holds."""

    convert: Callable[[object], object]
    """Raises ``TypeError`` or ``ValueError`` for what it is not."""

    complaint: str


def _text(value: object) -> str:
    return str(_given(value))


def _given(value: object) -> object:
    if value in (None, ""):
        raise ValueError
    return value


def _binary(value: object) -> int:
    number = int(value)  # type: ignore[call-overload]
    if number not in (0, 1):
        raise ValueError
    return number


TEXT = ValueKind(_text, "is empty")
LABEL = ValueKind(_given, "is empty")
NUMBER = ValueKind(float, "is no number")  # type: ignore[arg-type]
BINARY = ValueKind(_binary, "is neither 0 nor 1")


def read_rows(spec: LocalTask, kind: str, split: str) -> dict[str, list]:
    """The columns of ``kind``: scores as floats, labels of pairs as 0 and 1, no text empty."""
    key = f"mteb_local.{spec.name}"
    path = _split_file(Path(spec.path), split, key)
    table = read_table(path, key)
    rows = {
        wanted: _column(table, spec.columns.get(wanted, wanted), path, key, spec.max_rows)
        for wanted in COLUMNS[kind]
    }
    if not len(table):
        raise ConfigError(f"{key}: {path} has no rows")
    kinds = {"score": NUMBER, "label": BINARY if kind == "pair_classification" else LABEL}
    return {
        wanted: _converted(values, kinds.get(wanted, TEXT), f"{key}: {path}, {wanted}")
        for wanted, values in rows.items()
    }


def read_retrieval(spec: LocalTask) -> Retrieval:
    """Of a folder with ``queries``, ``corpus`` and ``qrels``; or of a file of pairs.

    In a file of pairs every document is an answer to the queries it stands beside, and the corpus
    is all documents together; equal texts are one.
    """
    folder = Path(spec.path)
    if folder.is_dir() and _named(folder, "corpus"):
        return _read_beir(folder, spec)
    pairs = read_rows(spec, "retrieval", spec.split)
    return pairs_as_retrieval(list(zip(pairs["query"], pairs["document"], strict=True)))


def pairs_as_retrieval(pairs: list[tuple[str, str]]) -> Retrieval:
    """Queries and their answers; texts that occur twice count once."""
    query_ids = {query: f"q{n}" for n, query in enumerate(dict.fromkeys(one for one, _ in pairs))}
    document_ids = {text: f"d{n}" for n, text in enumerate(dict.fromkeys(two for _, two in pairs))}
    relevant: dict[str, dict[str, int]] = {number: {} for number in query_ids.values()}
    for query, document in pairs:
        relevant[query_ids[query]][document_ids[document]] = 1
    return Retrieval(
        [{"id": number, "text": text} for text, number in query_ids.items()],
        [{"id": number, "text": text} for text, number in document_ids.items()],
        relevant,
    )


def read_table(path: Path, key: str) -> pa.Table:
    """A file as columns. Raises ``ConfigError`` naming ``key`` if it cannot be read."""
    try:
        match path.suffix:
            case ".parquet":
                return pq.read_table(path)
            case ".csv" | ".tsv":
                # Not pyarrow's reader, which would take a text of digits for a number.
                with path.open(encoding="utf-8", newline="") as file:
                    rows = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
                    header, *lines = list(rows) or [[]]
                columns = [[line[n] for line in lines] for n in range(len(header))]
                return pa.table(dict(zip(header, columns, strict=True)))
            case _:
                # One block, since a row may not cross the end of one.
                size = max(1, path.stat().st_size)
                options = pyarrow.json.ReadOptions(block_size=size)
                return pyarrow.json.read_json(path, read_options=options)
    except (OSError, ValueError, IndexError, csv.Error) as error:  # ArrowInvalid is a ValueError
        raise ConfigError(f"{key}: {path} cannot be read: {error}") from error


def _read_beir(folder: Path, spec: LocalTask) -> Retrieval:
    key = f"mteb_local.{spec.name}"
    corpus = _texts(_one_of(folder, ("corpus",), key), key)
    queries = _texts(_one_of(folder, ("queries",), key), key)
    places = (f"qrels/{spec.split}", "qrels", f"{spec.split}_qrels")
    path = _one_of(folder, places, key)
    table = read_table(path, key)
    names = ("query-id", "corpus-id", "score")
    relevant: dict[str, dict[str, int]] = {}
    for query, document, score in zip(
        *(_column(table, name, path, key, None) for name in names), strict=True
    ):
        if float(score) > 0:
            relevant.setdefault(str(query), {})[str(document)] = int(float(score))
    asked = [query for query in queries if query["id"] in relevant][: spec.max_rows]
    if not asked:
        raise ConfigError(f"{key}: {path} judges no query of {folder}")
    return Retrieval(asked, corpus, {one["id"]: relevant[one["id"]] for one in asked})


def _texts(path: Path, key: str) -> list[dict[str, str]]:
    table = read_table(path, key)
    number = "_id" if "_id" in table.column_names else "id"
    ids, texts = (_column(table, name, path, key, None) for name in (number, "text"))
    titles = table["title"].to_pylist() if "title" in table.column_names else [None] * len(ids)
    return [
        {"id": str(one), "text": str(text), **({"title": str(title)} if title else {})}
        for one, text, title in zip(ids, texts, titles, strict=True)
    ]


def _column(table: pa.Table, name: str, path: Path, key: str, most: int | None) -> list:
    if name not in table.column_names:
        raise ConfigError(
            f"{key}: {path} has no column {name}, only {', '.join(table.column_names)}; name "
            f"it in {key}.columns"
        )
    return table[name].to_pylist()[:most]


def _converted(values: list, kind: ValueKind, where: str) -> list:
    found = []
    for row, value in enumerate(values, start=1):
        try:
            found.append(kind.convert(value))
        except (TypeError, ValueError):
            raise ConfigError(f"{where} of row {row} {kind.complaint}: {value!r}") from None
    return found


def _split_file(path: Path, split: str, key: str) -> Path:
    """The file of a split: the path itself if it is a file and the only one asked for."""
    if path.is_file():
        if split == "train":
            raise ConfigError(
                f"{key}.path={path}: a classification needs a folder with train and test files"
            )
        return path
    if not path.is_dir():
        raise ConfigError(f"{key}.path={path}: there is no such file or folder")
    return _one_of(path, (split, f"data/{split}"), key)


def _one_of(folder: Path, stems: tuple[str, ...], key: str) -> Path:
    for stem in stems:
        if found := _named(folder, stem):
            return found
    raise ConfigError(
        f"{key}.path={folder}: has no file {' or '.join(stems)} "
        f"({', '.join(SUFFIXES)}; also {stems[0]}-*.parquet)"
    )


def _named(folder: Path, stem: str) -> Path | None:
    """``stem.<suffix>``, or the only shard ``stem-*.parquet``."""
    for suffix in SUFFIXES:
        if (file := folder / f"{stem}{suffix}").is_file():
            return file
    shards = sorted(folder.glob(f"{stem}-*.parquet"))
    return shards[0] if len(shards) == 1 else None
