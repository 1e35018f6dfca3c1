"""The benchmark of fine-tuning runs and counts tokens of text only."""

import json
from pathlib import Path

import pytest

from benchmarks.glue import batches_of, lengths_of, main, padded


def test_padding_fills_up_to_the_longest() -> None:
    assert padded([[7, 8], [9, 9, 9]]) == [[7, 8, 0], [9, 9, 9]]


def test_documents_have_the_lengths_that_are_asked_for() -> None:
    batches = batches_of([3, 5, 2], 2)
    assert [[len(ids) for ids in batch] for batch in batches] == [[3, 5], [2]]
    assert 11 < sum(lengths_of(None, None, 2000)) / 2000 < 15


def figures(output: Path, variants: str) -> dict[str, dict[str, float]]:
    words = ["--examples", "16", "--batch-size", "4", "--shape", "64x1", "--rounds", "1"]
    main([*words, "--variants", variants, "--output", str(output)])
    found = json.loads(output.read_text())
    assert 0 < found["padding"] < 1
    return found["tokens_per_sec"]


def test_packed_and_padded_are_measured(tmp_path: Path) -> None:
    found = figures(tmp_path / "bench.json", "packed,padded")
    assert list(found) == ["packed", "padded"]
    assert all(row["least"] <= row["tokens_per_sec"] <= row["most"] for row in found.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers' and accelerate's
def test_the_trainer_of_transformers_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    assert figures(tmp_path / "bench.json", "hf")["hf"]["tokens_per_sec"] > 0
