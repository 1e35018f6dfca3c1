"""From a source to its examples: rows of files, of the hub or of a package, read by their columns.

Files are read row by row, so that memory does not grow with them; only labelled data, whose
positives stand anywhere, and the joined tables' queries are kept whole.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np

from neobert.console import get_logger
from neobert.data.cache import file_digests
from neobert.data.data_files import DataFiles, find_files, log_splits
from neobert.data.records import Row
from neobert.data.rows import (
    FORMATS,
    OPENERS,
    RULES,
    TABLES,
    iter_rows,
    lacks_columns,
    not_text,
    root_column,
    row_columns,
    values_at,
)
from neobert.errors import ConfigError
from neobert.files import first_line, user_path
from neobert.tasks.contrastive.packaged_pairs import Example
from neobert.tasks.contrastive.pair_sources import PairSource

log = get_logger(__name__)

JOINED_KEYS = ("_id", "id")


def local_files(source: PairSource, sources_dir: str | None) -> DataFiles | None:
    """Local files of a source: its path, or what ``contrastive.sources_dir`` has under its name.

    ``None`` if it has to come from the hub or a package. Raises ``ConfigError`` for a path without
    readable files.
    """
    place = _local_place(source, sources_dir)
    if place is None or source.package is not None:
        return None
    own = f"contrastive.sources.{source.name}.path"
    return find_files(place, own if source.path else "contrastive.sources_dir", TABLES)


def _local_place(source: PairSource, sources_dir: str | None) -> Path | None:
    if source.path:
        return user_path(source.path)
    if sources_dir is None:
        return None
    places = [user_path(sources_dir) / source.name]
    places += [
        places[0].with_name(source.name + suffix + packed)
        for suffix, kind in FORMATS.items()
        if kind in TABLES
        for packed in ("", *OPENERS)
    ]
    return next((place for place in places if place.exists()), None)


def identity(source: PairSource, sources_dir: str | None, cache: Path) -> dict[str, object]:
    """What tells one state of a source from another; ``cache`` remembers digests of files."""
    columns = [source.query, source.positive, *source.negatives, source.text, source.label]
    state: dict[str, object]
    if source.package is not None:
        place = _local_place(source, sources_dir)
        state = {"package": source.name, "folder": None if place is None else str(place)}
    elif (local := local_files(source, sources_dir)) is not None:
        names = [str(file.name) for file in local.files]  # they tell the splits
        digests = file_digests((file.path for file in local.files), cache)
        state = {"files": names, "digests": digests, "split": source.split, "rules": RULES}
    else:
        state = {"hub": source.hub, "configs": source.configs, "split": source.split}
    return {"columns": columns, "above": source.above, **state}


def read_examples(
    source: PairSource, sources_dir: str | None = None, fresh: bool = False
) -> Iterator[Example]:
    """All examples of a source in their order; ``fresh``: do not believe the hub's cache.

    Those of files called ``validation`` are held out, those of files called ``test`` are not read.
    Raises ``ConfigError`` where a column is missing, or the hub cannot be reached.
    """
    if source.package is not None:
        place = _local_place(source, sources_dir)
        yield from source.package("" if place is None else str(place))
        return
    local = local_files(source, sources_dir)
    if local is None:
        yield from _hub_examples(source, fresh)
        return
    tables = None if not source.joined else _tables(source, local)
    for files, is_held_out in _split_files(source, local):
        if tables is not None:
            qrels = list(_file_rows(local.setting, files, ("query-id", "corpus-id"), {"score"}))
            examples = _joined(qrels, *(_id_rows(local.setting, table) for table in tables))
        else:
            rows = _file_rows(local.setting, files, _needed(source), texts=_text_paths(source))
            examples = _examples(source, rows)
        yield from (replace(example, held_out=is_held_out) for example in examples)


def _split_files(source: PairSource, local: DataFiles) -> Iterator[tuple[list[Path], bool | None]]:
    """Files to train on, and those that are held out; ``None``: the settings decide."""
    if source.joined:
        judgements = tuple(file for file in local.files if "qrels" in file.name.as_posix().lower())
        local = replace(local, files=judgements)
    splits = local.by_split([source.split] if source.split != "train" else [])
    unused = set(splits) - {source.split, "validation"}
    if len(local.files) > 1:
        log_splits(f"source {source.name}", splits, unused)
    if source.split not in splits:
        raise ConfigError(
            f"{local.setting}={local.origin}: has no file of the split {source.split} to train "
            f"on, only of {', '.join(splits)}"
        )
    held_out = splits.get("validation", []) if source.split == "train" else []
    yield splits[source.split], False if held_out else None
    if held_out:
        yield held_out, True


def _tables(source: PairSource, local: DataFiles) -> list[list[Path]]:
    """The files of the queries and of the corpus of a joined source."""
    tables = [local.called(name) for name in ("queries", "corpus")]
    if not all(tables) or not any("qrels" in file.name.as_posix().lower() for file in local.files):
        raise ConfigError(f"source {source.name}: needs files called queries, corpus and qrels")
    return tables


def _file_rows(
    setting: str,
    files: list[Path],
    paths: tuple[str, ...],
    further: Iterable[str] = (),
    texts: tuple[str, ...] = (),
) -> Iterator[Row]:
    """The rows of files, each of which must have the columns that ``paths`` lead to.

    What ``texts`` lead to must be text or null.
    """
    names = {name for path in paths for name in path.split("|")}
    columns = {*names, *map(root_column, names), *further}
    for file in files:
        for number, row in enumerate(iter_rows([file], setting, columns)):
            if number == 0 and (missing := _missing(row, paths)):
                raise lacks_columns(setting, file, missing, row_columns(file, setting))
            _check_texts(row, texts, setting, file, number)
            yield row


def _check_texts(
    row: Row, paths: Iterable[str], setting: str, origin: Path | str, number: int
) -> None:
    for path in paths:
        for value in values_at(row, path):
            if not isinstance(value, str | None):
                where = f"{setting}: {origin}: row {number}: {path}"
                raise not_text(where, value, "contrastive.sources")


def _text_paths(source: PairSource) -> tuple[str, ...]:
    return (source.text,) if source.label else (source.query, source.positive, *source.negatives)


def _needed(source: PairSource) -> tuple[str, ...]:
    """Paths of the columns that each row must have."""
    paths = [source.text, source.label] if source.label else [source.query, source.positive]
    above = [] if source.above is None else [source.above[0]]
    return (*paths, *above, *source.negatives)


def _missing(row: Row, paths: Iterable[str]) -> list[str]:
    return [
        path
        for path in paths
        if not any(name in row or root_column(name) in row for name in path.split("|"))
    ]


def _examples(source: PairSource, rows: Iterator[Row]) -> Iterator[Example]:
    return _labelled(source, rows) if source.label else _pairs(source, rows)


def _pairs(source: PairSource, rows: Iterator[Row]) -> Iterator[Example]:
    for row in rows:
        if source.above is not None and not _number(row.get(source.above[0])) > source.above[1]:
            continue
        query, positive = (_first(row, path) for path in (source.query, source.positive))
        negatives = [text for path in source.negatives for text in texts_at(row, path)]
        yield Example(query, positive, negatives)


def _labelled(source: PairSource, rows: Iterator[Row]) -> Iterator[Example]:
    """Each text with another of its label: the next one of a shuffled cycle."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        label = row.get(source.label)
        if label is not None:
            by_label[str(label)].append(_first(row, source.text))
    for label, texts in by_label.items():
        order = np.random.default_rng(0).permutation(len(texts))
        shuffled = [texts[place] for place in order]
        if len(shuffled) > 1:
            for text, positive in zip(shuffled, [*shuffled[1:], shuffled[0]], strict=True):
                yield Example(text, positive, group=f"{source.name} {label}")


def _joined(qrels: list[Row], queries: Iterator[Row], corpus: Iterator[Row]) -> Iterator[Example]:
    """Queries and documents that the judgements call relevant (``score`` above 0)."""
    relevant = [row for row in qrels if _number(row.get("score", 1)) > 0]
    query_texts = _texts_by_id(queries, {str(row["query-id"]) for row in relevant})
    document_texts = _texts_by_id(corpus, {str(row["corpus-id"]) for row in relevant})
    for row in relevant:
        query = query_texts.get(str(row["query-id"]), "")
        document = document_texts.get(str(row["corpus-id"]), "")
        yield Example(query, document)  # preparation drops and counts empty ones


def _id_rows(setting: str, files: list[Path]) -> Iterator[Row]:
    return _file_rows(setting, files, ("text",), JOINED_KEYS, texts=("text",))


def _texts_by_id(rows: Iterator[Row], ids: set[str]) -> dict[str, str]:
    texts = {}
    for row in rows:
        key = str(next((row[name] for name in JOINED_KEYS if name in row), ""))
        if key in ids:
            texts[key] = _first(row, "text")
    return texts


def _hub_examples(source: PairSource, fresh: bool) -> Iterator[Example]:
    if not source.joined:
        return _examples(source, _checked_hub_rows(source, fresh))
    qrels = list(_hub_rows(source.hub, "default", source.split, fresh))
    tables = (_hub_rows(source.hub, name, name, fresh) for name in ("queries", "corpus"))
    return _joined(qrels, *tables)


def _checked_hub_rows(source: PairSource, fresh: bool) -> Iterator[Row]:
    for config in source.configs:
        for number, row in enumerate(_hub_rows(source.hub, config, source.split, fresh)):
            if number == 0 and (missing := _missing(row, _needed(source))):
                raise lacks_columns(f"source {source.name}", source.hub, missing, row)
            _check_texts(row, _text_paths(source), f"source {source.name}", source.hub, number)
            yield row


def _hub_rows(hub: str, config: str | None, split: str, fresh: bool) -> Iterator[Row]:
    mode = "force_redownload" if fresh else "reuse_dataset_if_exists"
    try:
        rows = datasets.load_dataset(hub, config, split=split, download_mode=mode)
    except Exception as error:  # the hub's client raises dozens of kinds
        raise ConfigError(
            f"{hub} ({config or 'default'}, {split}) could not be loaded from the hub "
            f"({first_line(error)}); put a copy with the same columns into "
            "contrastive.sources_dir, or name a source that needs no network: dataset.name=FACTBOOK"
        ) from error
    yield from rows


def texts_at(row: Row, path: str) -> list[str]:
    """The texts that a path leads to; null is the empty one, what is absent none."""
    return [value if isinstance(value, str) else "" for value in values_at(row, path)]


def _first(row: Row, path: str) -> str:
    return next(iter(texts_at(row, path)), "")


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("-inf")
