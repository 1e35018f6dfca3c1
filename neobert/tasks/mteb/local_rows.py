"""Rows of local tasks: from files to the requested columns."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from neobert.config.mteb import COLUMNS, LocalTask
from neobert.data.data_files import DataFiles, canonical_split, find_files, log_splits, shortened
from neobert.data.records import Row
from neobert.data.rows import (
    TABLES,
    iter_rows,
    lacks_columns,
    root_column,
    row_columns,
    value_at,
    values_at,
)
from neobert.errors import ConfigError
from neobert.files import user_path

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
    return str(_label(value))


def _label(value: object) -> object:
    if value in (None, "") or not isinstance(value, str | int | float):
        raise ValueError
    return value


def _binary(value: object) -> int:
    number = float(value)  # type: ignore[arg-type]
    if number not in (0, 1):
        raise ValueError
    return int(number)


def _number(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError
    return number


TEXT = ValueKind(_text, "is empty, or no text")
LABEL = ValueKind(_label, "is empty, or neither a name nor a number")
NUMBER = ValueKind(_number, "is not a finite number")
BINARY = ValueKind(_binary, "is neither 0 nor 1")


def read_rows(spec: LocalTask, kind: str, split: str) -> dict[str, list]:
    """The columns of ``kind``: scores as floats, labels of pairs as 0 and 1, no text empty."""
    setting = f"mteb_local.{spec.name}"
    paths = {name: spec.columns.get(name, name) for name in COLUMNS[kind]}
    files = _split_files(_found(spec), user_path(spec.path).is_file(), split)
    kinds = {"score": NUMBER, "label": BINARY if kind == "pair_classification" else LABEL}
    kinds = {name: kinds.get(name, TEXT) for name in paths}
    return _columns(files, setting, paths, kinds, spec.max_rows)


def read_retrieval(spec: LocalTask) -> Retrieval:
    """Of a folder with ``queries``, ``corpus`` and ``qrels``; or of a file of pairs.

    In a file of pairs every document is an answer to the queries it stands beside, and the corpus
    is all documents together; equal texts are one.
    """
    if user_path(spec.path).is_dir() and (data := _found(spec)).called("corpus"):
        return _read_beir(data, spec)
    pairs = read_rows(spec, "retrieval", spec.split)
    return pairs_as_retrieval(list(zip(pairs["query"], pairs["document"], strict=True)))


def pairs_as_retrieval(pairs: list[tuple[str, str]]) -> Retrieval:
    """Queries and their answers; texts that occur twice count once."""
    query_ids = {query: f"q{n}" for n, query in enumerate(dict.fromkeys(text for text, _ in pairs))}
    document_ids = {
        text: f"d{n}" for n, text in enumerate(dict.fromkeys(answer for _, answer in pairs))
    }
    relevant: dict[str, dict[str, int]] = {number: {} for number in query_ids.values()}
    for query, document in pairs:
        relevant[query_ids[query]][document_ids[document]] = 1
    return Retrieval(
        [{"id": number, "text": text} for text, number in query_ids.items()],
        [{"id": number, "text": text} for text, number in document_ids.items()],
        relevant,
    )


def _read_beir(data: DataFiles, spec: LocalTask) -> Retrieval:
    setting = f"mteb_local.{spec.name}"
    corpus = _texts(data, "corpus", setting)
    queries = _texts(data, "queries", setting)
    files = _judgements(data, spec.split)
    paths = {"query": "query-id", "document": "corpus-id", "score": "score"}
    kinds = {"query": TEXT, "document": TEXT, "score": NUMBER}
    judged = _columns(files, setting, paths, kinds)
    relevant: dict[str, dict[str, int]] = {}
    for query, document, score in zip(*judged.values(), strict=True):
        if score > 0:
            relevant.setdefault(query, {})[document] = int(score)
    judged_queries = [query for query in queries if query["id"] in relevant][: spec.max_rows]
    if not judged_queries:
        raise ConfigError(f"{setting}: {files[0]} judges no query of {data.origin}")
    judged_documents = {query["id"]: relevant[query["id"]] for query in judged_queries}
    return Retrieval(judged_queries, corpus, judged_documents)


def _judgements(data: DataFiles, split: str) -> list[Path]:
    """``qrels/<split>``, ``qrels`` or ``<split>_qrels``."""
    plain = [
        file.path
        for file in data.files
        if file.is_called("qrels") and file.split in (None, canonical_split(split))
    ]
    files = data.called(f"qrels/{split}") or plain or data.called(f"{split}_qrels")
    if not files:
        raise _no_file(data, f"qrels/{split}")
    return files


def _texts(data: DataFiles, table: str, setting: str) -> list[dict[str, str]]:
    files = data.called(table)
    if not files:
        raise _no_file(data, table)
    number = "_id" if "_id" in row_columns(files[0], setting) else "id"
    paths = {"id": number, "text": "text"}
    rows = _columns(files, setting, paths, {"id": TEXT, "text": TEXT})
    titles = [value_at(row, "title") for row in iter_rows(files, setting, {"title"})]
    return [
        {"id": text_id, "text": text, **({"title": str(title)} if title else {})}
        for text_id, text, title in zip(rows["id"], rows["text"], titles, strict=True)
    ]


def _columns(
    files: list[Path],
    setting: str,
    paths: Mapping[str, str],
    kinds: Mapping[str, ValueKind],
    most: int | None = None,
) -> dict[str, list]:
    """At most ``most`` rows of files as converted columns, from the columns that ``paths`` name."""
    columns: dict[str, list] = {name: [] for name in paths}
    for where, row in islice(_located(files, setting, paths), most):
        for name, path in paths.items():
            value = value_at(row, path)
            try:
                columns[name].append(kinds[name].convert(value))
            except (TypeError, ValueError):
                raise ConfigError(
                    f"{setting}: {where}: {path} {kinds[name].complaint}: {str(value)[:80]!r}"
                ) from None
    if not next(iter(columns.values())):
        raise ConfigError(f"{setting}: {shortened(map(str, files))}: has no rows")
    return columns


def _located(
    files: list[Path], setting: str, paths: Mapping[str, str]
) -> Iterator[tuple[str, Row]]:
    """The rows, each with its place; the first of a file must have all columns."""
    columns = {*paths.values(), *map(root_column, paths.values())}
    for file in files:
        for number, row in enumerate(iter_rows([file], setting, columns), start=1):
            missing = [path for path in paths.values() if not values_at(row, path)]
            if missing and number == 1:
                error = lacks_columns(setting, file, missing, row_columns(file, setting))
                raise ConfigError(f"{error}; name it in {setting}.columns")
            yield f"{file}, row {number}", row


def _found(spec: LocalTask) -> DataFiles:
    return find_files(spec.path, f"mteb_local.{spec.name}.path", TABLES)


def _split_files(data: DataFiles, is_file: bool, split: str) -> list[Path]:
    """The files of a split: the path itself if it is a file and the only one requested."""
    if is_file and split == "train":
        raise ConfigError(
            f"{data.setting}={data.origin}: a classification needs a folder with train and test "
            "files"
        )
    files = [file.path for file in data.files] if is_file else data.of_split(split)
    if not files:
        raise _no_file(data, split)
    if not is_file:
        log_splits(data.origin, {split: files})
    return files


def _no_file(data: DataFiles, name: str) -> ConfigError:
    names = shortened(str(file.name) for file in data.files)
    return ConfigError(
        f"{data.setting}={data.origin}: has no file {name} (such as {name}.jsonl or "
        f"data/{name}-00000-of-00001.parquet); it holds {names}"
    )
