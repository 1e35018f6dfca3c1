from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.scale import MEASUREMENTS, OTHERS, TITLES, page


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    return Namespace(folder=tmp_path, rounds=1)


def test_a_metrics_file_is_written_about_once(options: Namespace) -> None:
    (ratio,) = MEASUREMENTS["metrics.csv"](options).values()
    assert 1.0 <= ratio < 1.05


def test_a_checkpoint_is_written_once_and_not_read_back(options: Namespace) -> None:
    figures = MEASUREMENTS["checkpoint"](options)
    assert figures["save, written"] == pytest.approx(1, abs=0.01)
    assert figures["save, read back"] < 0.01
    assert figures["retention, read"] < 0.01
    assert figures["resume, read by one process of a node"] == pytest.approx(1, abs=0.01)


def test_a_finished_job_is_looked_up(options: Namespace) -> None:
    assert all(milliseconds < 100 for milliseconds in MEASUREMENTS["sweep"](options).values())


def test_the_page_has_every_measurement() -> None:
    assert set(TITLES) == {*OTHERS, *MEASUREMENTS}
    text = page({"sweep": {"10 jobs": 1.5}, "streams": {"files": {"1 ranks": 2.0}}})
    assert "| 10 jobs | 1.5 |" in text
    assert "| files, 1 ranks | 2.0 |" in text
