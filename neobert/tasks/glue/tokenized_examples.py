"""The examples of a split as ids, tokenised once and cached."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neobert.cores import available_cores
from neobert.data.arrays import ArrayWriter
from neobert.data.cache import build_cached, file_digests, key_of, opening
from neobert.data.processes import in_processes
from neobert.tasks.glue.labelled_batch import Examples
from neobert.tasks.glue.labels import Labelled, column_values
from neobert.tasks.glue.pair_tokenizer import PairTokenizer
from neobert.tasks.glue.tasks import NUMBER

VERSION = 3
BATCH = 1000


def tokenize(part: Labelled, tokenizer: PairTokenizer, cache: Path, num_proc: int) -> Examples:
    """The examples of a split; ids are kept in ``cache`` under a key of texts and tokenizer."""
    # A save_to_disk folder keeps its fingerprint whatever becomes of its files.
    stored = [Path(file["filename"]) for file in part.data.cache_files]
    recipe = {
        "data": part.data._fingerprint,
        "files": file_digests(stored, cache),
        "tokenizer": sha256(tokenizer.text.core_json.encode()).hexdigest(),
        "columns": tokenizer.columns,
        "version": VERSION,
    }
    folder = cache / "glue" / key_of(recipe)
    num_proc = min(num_proc, available_cores())
    build_cached(folder, lambda target: _write(part, tokenizer, num_proc, target))
    with opening(folder):
        ids, types = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "types"))
        bounds = np.load(folder / "bounds.npy")
        if not len(ids) == len(types) == bounds[-1]:
            raise ValueError("its files differ in length")
    return Examples(ids, types, bounds, labels=part.labels, names=_names(part))


def _names(part: Labelled) -> NDArray[np.int64]:
    """GLUE's own numbers of the examples, where there are such, else their places."""
    feature = part.data.features.get(NUMBER)
    if feature is None or not str(getattr(feature, "dtype", "")).startswith("int"):
        return np.arange(len(part.labels), dtype=np.int64)
    return np.array(column_values(part.data, NUMBER), dtype=np.int64)


def _write(part: Labelled, tokenizer: PairTokenizer, num_proc: int, target: Path) -> None:
    end = 0
    with (
        ArrayWriter(target / "ids.npy", np.int32) as ids_file,
        ArrayWriter(target / "types.npy", np.int8) as types_file,
        ArrayWriter(target / "bounds.npy", np.int64) as bounds_file,
    ):
        bounds_file.append(np.zeros(1, np.int64))
        for ids, types, lengths in in_processes(tokenizer, _batches(part, tokenizer), num_proc):
            ids_file.append(ids)
            types_file.append(types)
            bounds_file.append(end + np.cumsum(lengths))
            end += len(ids)


def _batches(part: Labelled, tokenizer: PairTokenizer) -> Iterator[list[list[str]]]:
    columns = list(tokenizer.columns)
    for rows in part.data.select_columns(columns).iter(batch_size=BATCH):
        yield [rows[column] for column in columns]
