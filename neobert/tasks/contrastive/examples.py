"""From a source to its examples: rows of files, of the hub or of a package, read by their columns.

Files are read row by row, so that memory does not grow with them; only labelled data, whose
positives stand anywhere, and the joined tables' queries are kept whole.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neobert.config.checks import ConfigError
from neobert.tasks.contrastive.packaged import Example
from neobert.tasks.contrastive.sources import PairSource

Row = Mapping[str, object]
SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d*)\]")
JOINED_KEYS = ("_id", "id")


def local_files(source: PairSource, sources_dir: str | None) -> list[Path]:
    """Local files of a source: its path, or what ``contrastive.sources_dir`` has under its name.

    Empty if it has to come from the hub or a package. Raises ``ConfigError`` for a path without
    readable files.
    """
    folder = _local_place(source, sources_dir)
    if folder is None or source.package is not None:
        return []
    files = [folder] if folder.is_file() else sorted(one for one in folder.rglob("*"))
    found = [one for one in files if one.suffix.lower() in SUFFIXES]
    if not found:
        raise ConfigError(
            f"source {source.name}: {folder} "
            + ("has no" if folder.exists() else "does not exist; needed is a file or folder of")
            + f" {', '.join(SUFFIXES)}"
        )
    return found


def _local_place(source: PairSource, sources_dir: str | None) -> Path | None:
    if source.path:
        return Path(source.path).expanduser()
    if sources_dir is None:
        return None
    places = [Path(sources_dir).expanduser() / source.name]
    places += [places[0].with_name(source.name + suffix) for suffix in SUFFIXES]
    return next((place for place in places if place.exists()), None)


def identity(source: PairSource, sources_dir: str | None) -> dict[str, object]:
    """What tells one state of a source from another, without reading it."""
    columns = [source.query, source.positive, *source.negatives, source.text, source.label]
    found: dict[str, object] = {"columns": columns, "above": source.above}
    if source.package is not None:
        place = _local_place(source, sources_dir)
        return found | {"package": source.name, "folder": None if place is None else str(place)}
    files = local_files(source, sources_dir)
    if files:
        states = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files]
        return found | {"files": sha256(json.dumps(states).encode()).hexdigest()}
    return found | {"hub": source.hub, "configs": source.configs, "split": source.split}


def read_examples(
    source: PairSource, sources_dir: str | None = None, fresh: bool = False
) -> Iterator[Example]:
    """All examples of a source in their order; ``fresh``: do not believe the hub's cache.

    Raises ``ConfigError`` where a column is missing, or the hub cannot be reached.
    """
    if source.package is not None:
        place = _local_place(source, sources_dir)
        yield from source.package("" if place is None else str(place))
    elif source.joined:
        yield from _joined(source, sources_dir, fresh)
    elif source.label:
        yield from _labelled(source, _rows(source, sources_dir, fresh))
    else:
        yield from _pairs(source, _rows(source, sources_dir, fresh))


def _pairs(source: PairSource, rows: Iterator[Row]) -> Iterator[Example]:
    for number, row in enumerate(rows):
        if number == 0:
            _check_columns(source, row)
        if source.above is not None and not _number(row.get(source.above[0])) > source.above[1]:
            continue
        query, positive = (_first(row, path) for path in (source.query, source.positive))
        negatives = [text for path in source.negatives for text in texts_at(row, path)]
        yield Example(query, positive, negatives)


def _labelled(source: PairSource, rows: Iterator[Row]) -> Iterator[Example]:
    """Each text with another of its label: the next one in a shuffled circle."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for number, row in enumerate(rows):
        if number == 0:
            _check_columns(source, row)
        label = row.get(source.label)
        if label is not None:
            by_label[str(label)].append(_first(row, source.text))
    for label, texts in by_label.items():
        order = np.random.default_rng(0).permutation(len(texts))
        circle = [texts[place] for place in order]
        if len(circle) > 1:
            for text, other in zip(circle, [*circle[1:], circle[0]], strict=True):
                yield Example(text, other, group=f"{source.name} {label}")


def _joined(source: PairSource, sources_dir: str | None, fresh: bool) -> Iterator[Example]:
    """Queries and documents that the judgements call relevant (``score`` above 0)."""
    qrels = list(_table(source, sources_dir, "qrels", fresh))
    if qrels:
        _require_columns(source, qrels[0], ("query-id", "corpus-id"))
    relevant = [row for row in qrels if _number(row.get("score", 1)) > 0]
    wanted = {str(row["corpus-id"]) for row in relevant}
    queries = _texts_by_id(_table(source, sources_dir, "queries", fresh))
    corpus = _texts_by_id(_table(source, sources_dir, "corpus", fresh), wanted)
    for row in relevant:
        query, document = queries.get(str(row["query-id"])), corpus.get(str(row["corpus-id"]))
        yield Example(query or "", document or "")  # preparation drops and counts empty ones


def _texts_by_id(rows: Iterator[Row], wanted: set[str] | None = None) -> dict[str, str]:
    found = {}
    for row in rows:
        key = str(next((row[name] for name in JOINED_KEYS if name in row), ""))
        if wanted is None or key in wanted:
            found[key] = _first(row, "text")
    return found


def _table(source: PairSource, sources_dir: str | None, name: str, fresh: bool) -> Iterator[Row]:
    """One of the three tables of a joined source: files called by its name, or its hub config."""
    files = [one for one in local_files(source, sources_dir) if name in (one.stem, one.parent.name)]
    if files:
        return file_rows(files)
    if local_files(source, sources_dir):
        raise ConfigError(f"source {source.name}: needs files called queries, corpus and qrels")
    if name == "qrels":
        return _hub_rows(source.hub, "default", source.split, fresh)
    return _hub_rows(source.hub, name, name, fresh)


def _rows(source: PairSource, sources_dir: str | None, fresh: bool) -> Iterator[Row]:
    files = local_files(source, sources_dir)
    if files:
        yield from file_rows(files)
        return
    for config in source.configs:
        yield from _hub_rows(source.hub, config, source.split, fresh)


def _hub_rows(hub: str, config: str | None, split: str, fresh: bool) -> Iterator[Row]:
    mode = "force_redownload" if fresh else "reuse_dataset_if_exists"
    try:
        rows = datasets.load_dataset(hub, config, split=split, download_mode=mode)
    except Exception as error:  # the hub's client raises dozens of kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{hub} ({config or 'default'}, {split}) could not be loaded from the hub "
            f"({reason}); put a copy with the same columns into contrastive.sources_dir, or "
            "name a source that needs no network: dataset.name=FACTBOOK"
        ) from error
    yield from rows


def file_rows(files: list[Path]) -> Iterator[Row]:
    """The rows of files, one file after the other. Raises ``ConfigError`` for a damaged one."""
    for file in files:
        try:
            yield from _rows_of(file)
        except (OSError, ValueError, pa.ArrowException, csv.Error) as error:
            raise ConfigError(f"{file}: cannot be read ({error})") from error


def _rows_of(file: Path) -> Iterator[Row]:
    match file.suffix.lower():
        case ".parquet":
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1000):
                yield from batch.to_pylist()
        case ".csv" | ".tsv" as suffix:
            with file.open(encoding="utf-8", newline="") as lines:
                yield from csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",")
        case _:
            yield from _json_rows(file)


def _json_rows(file: Path) -> Iterator[Row]:
    """JSON lines, or one list of objects."""
    with file.open(encoding="utf-8") as lines:
        if lines.read(1) == "[":
            lines.seek(0)
            yield from json.load(lines)
            return
        lines.seek(0)
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not a JSON object")
                yield row


def texts_at(row: Row, path: str) -> list[str]:
    """The texts that a path leads to; what is no text is the empty one, what is absent none."""
    for alternative in path.split("|"):
        values: list[object] = [row]
        for name, index in STEP.findall(alternative):
            values = [one for value in values for one in _step(value, name, index)]
        if values:
            return [value if isinstance(value, str) else "" for value in values]
    return []


def _step(value: object, name: str, index: str) -> list[object]:
    if name:
        return [value[name]] if isinstance(value, Mapping) and name in value else []
    if not isinstance(value, list):
        return []
    return list(value) if index == "" else value[int(index) : int(index) + 1]


def _first(row: Row, path: str) -> str:
    return next(iter(texts_at(row, path)), "")


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("-inf")


def _check_columns(source: PairSource, row: Row) -> None:
    paths = [source.text, source.label] if source.label else [source.query, source.positive]
    if source.above is not None:
        paths.append(source.above[0])
    _require_columns(source, row, (*paths, *source.negatives))


def _require_columns(source: PairSource, row: Row, paths: tuple[str, ...]) -> None:
    missing = [
        path
        for path in paths
        if not any(re.split(r"[.\[]", one)[0] in row for one in path.split("|"))
    ]
    if missing:
        raise ConfigError(
            f"source {source.name}: lacks the column {', '.join(missing)}; it has "
            f"{', '.join(map(str, row))}"
        )
