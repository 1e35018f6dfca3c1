from pathlib import Path

import numpy as np
import pytest

from benchmarks.stream import measure_scale, peak_memory, write_offsets
from neobert.data.arrays import open_array


def test_the_offsets_are_of_as_many_documents_of_300_tokens(tmp_path: Path) -> None:
    write_offsets(tmp_path / "offsets.npy", 5000)
    lengths = np.diff(open_array(tmp_path / "offsets.npy"))
    assert len(lengths) == 5000
    assert lengths.min() >= 1
    assert lengths.mean() == pytest.approx(300, rel=0.1)


def test_allocations_are_counted_at_their_most() -> None:
    assert peak_memory(lambda: np.zeros(10**6)) == pytest.approx(8e6, rel=0.01)


def test_the_plan_of_few_documents_is_measured() -> None:
    figures = measure_scale(2000)
    assert 500 < figures["rows"] < 2000
    assert figures["plan, MB at a time"] < 5
    assert 4 < figures["plan, bytes per document on disk"] < 12
