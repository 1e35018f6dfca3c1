import pickle
from pathlib import Path

import numpy as np
import pytest

from neobert.data.token_store import TokenStore, write_store

DOCUMENTS = [[5, 6, 7], [], [8], [9, 10]]


def batches(documents: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (
            np.array([token for ids in part for token in ids], dtype=np.uint32),
            np.array([len(ids) for ids in part], dtype=np.int64),
        )
        for part in (documents[:2], documents[2:])
    ]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(100, np.uint16), (70_000, np.uint32)])
def test_documents_come_back_and_empty_ones_are_counted(
    tmp_path: Path, vocab_size: int, dtype: type
) -> None:
    info = write_store(tmp_path, batches(DOCUMENTS), vocab_size)
    store = TokenStore.open(tmp_path)
    assert (info.documents, info.tokens, info.empty_documents) == (3, 6, 1)
    assert [store.document(number).tolist() for number in range(3)] == [[5, 6, 7], [8], [9, 10]]
    assert store.document(0).dtype == dtype
    assert store.lengths.tolist() == [3, 1, 2]
    assert store.counts[5:11].tolist() == [1] * 6


def test_the_digest_is_that_of_the_documents(tmp_path: Path) -> None:
    digests = []
    for number, documents in enumerate([DOCUMENTS, DOCUMENTS, [[5, 6], [7], [8], [9, 10]]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        digests.append(write_store(folder, batches(documents), 100).digest)
    assert digests[0] == digests[1] != digests[2]


def test_another_process_gets_a_store_that_reads(tmp_path: Path) -> None:
    write_store(tmp_path, batches(DOCUMENTS), 100)
    store = TokenStore.open(tmp_path)
    store.document(0)
    again = pickle.loads(pickle.dumps(store))
    assert again.document(2).tolist() == [9, 10]
