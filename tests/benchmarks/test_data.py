import mmap
from pathlib import Path

import numpy as np
from pyarrow import parquet

from benchmarks.data import VOCABULARY, random_documents, resident, write_ids


def test_the_documents_of_the_large_store_are_as_many_tokens_as_asked() -> None:
    batches = list(random_documents(3_000_000, size=1_000_000))
    tokens = sum(len(ids) for ids, _ in batches)
    assert abs(tokens / 3_000_000 - 1) < 0.05
    assert all(len(ids) == lengths.sum() for ids, lengths in batches)
    assert max(int(ids.max()) for ids, _ in batches) < VOCABULARY


def test_the_folder_of_ids_has_as_many_documents_as_asked(tmp_path: Path) -> None:
    write_ids(tmp_path / "ids", 1000)
    column = parquet.read_table(tmp_path / "ids" / "ids.parquet").column("input_ids")
    assert len(column) == 1000
    assert 40 < np.mean([len(ids) for ids in column.to_pylist()]) < 80


def test_resident_memory_grows_with_what_is_touched() -> None:
    # Pages of its own: the allocator may have room that is in memory already.
    with mmap.mmap(-1, 64 << 20) as pages:
        before = resident()
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start] = 1
        assert resident() - before > 50
