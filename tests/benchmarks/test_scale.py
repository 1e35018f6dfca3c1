from argparse import Namespace
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from benchmarks import harness
from benchmarks.scale import MEASUREMENTS, OTHERS, RUNS, TITLES, page, parts_of, run_parts
from neobert.files import read_json, write_json


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


def test_figures_are_saved_after_each_part_and_added_to_earlier_ones(
    options: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scale.json"
    write_json({"sweep": {"10 finished jobs": 0.1}, "origin": {}}, output)

    def figures_of(module: str, *words: str) -> dict[str, float]:
        if "--documents=1000000" in words:
            raise CalledProcessError(1, module)
        return {"seconds": 1.5}

    monkeypatch.setattr(harness, "in_fresh_process", figures_of)
    options.documents = [10**5, 10**6, 10**7]
    assert run_parts(parts_of("preparation", options), output) == 1
    options.documents = [10**7]
    assert run_parts(parts_of("preparation", options), output) == 0, "no such part"
    saved = read_json(output)
    assert saved["sweep"] == {"10 finished jobs": 0.1}
    assert saved["preparation"] == {"100,000 documents": {"seconds": 1.5}}
    assert list(saved[RUNS]) == ["preparation, 100,000 documents"]
    text = output.with_suffix(".md").read_text()
    assert "| 100,000 documents, seconds | 1.5 |" in text
    assert "| 1,000,000 documents | not measured |" in text
    assert "| all | not measured |" in text
