"""Both trainers and both ways of a large batch run, and each gets its figure."""

import json
from itertools import product
from pathlib import Path

import pytest

from benchmarks.contrastive import JOBS, OURS, PADDED, Job, main
from neobert.export.write import export
from tests.tools.conftest import WORDS


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    nouns, facts = WORDS[4:10], WORDS[11:]
    rows = [
        {"query": f"the {noun} {fact}", "positive": f"{fact} is a {noun} of the {noun}"}
        for noun, fact in product(nouns, facts)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.slow
def test_both_trainers_are_timed_on_the_same_pairs(
    model_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    export(model_folder, tmp_path / "exported")
    output = tmp_path / "bench.json"
    words = ["--batch", "4", "--steps", "2", "--rounds", "1", "--max-length", "16"]
    words += ["--peers", PADDED, "--output", str(output)]
    assert main([str(tmp_path / "exported"), str(pairs_file), *words]) == 0
    speed = json.loads(output.read_text())["speed"]
    assert list(speed) == [OURS, PADDED]
    for found in speed.values():
        for rate, ratio in (
            ("pairs_per_sec", "ours_is_faster_by"),
            ("pairs_per_cpu_sec", "ours_is_faster_by_cpu"),
        ):
            (ours,), (theirs,) = speed[OURS][rate], found[rate]
            assert min(ours, theirs) > 0
            assert found[ratio] == pytest.approx(ours / theirs)
    assert "<svg" in output.with_suffix(".svg").read_text()


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_large_batch_is_measured_at_once_and_in_chunks(
    chunk: int | None, model_folder: Path, pairs_file: Path
) -> None:
    job = Job("memory", str(model_folder), str(pairs_file), 16, 1, max_length=16, chunk=chunk)
    measured = JOBS[job.kind](job)
    assert measured.wall > 0
    assert measured.cpu > 0
    assert measured.peak_mib >= 0
