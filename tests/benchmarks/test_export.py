"""The bench compares models of one size on the same texts, and counts all weights' memory."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.export import (
    LONGEST,
    ROWS,
    Speed,
    batches,
    load_and_measure,
    models,
    report,
)


def test_the_two_models_have_as_many_parameters() -> None:
    ours, peer = (sum(p.numel() for p in model.parameters()) for model in models())
    assert ours == pytest.approx(peer, rel=0.01)


def test_one_batch_is_full_and_the_other_padded() -> None:
    full, varying = batches()["full"], batches()["varying"]
    assert full["attention_mask"].sum() == ROWS * LONGEST
    lengths = varying["attention_mask"].sum(1)
    assert 8 <= lengths.min() < lengths.max() == LONGEST
    assert not varying["input_ids"][varying["attention_mask"] == 0].any()


def test_loading_reads_every_weight(model_folder: Path) -> None:
    found = load_and_measure("neobert", model_folder)
    weights = load_file(model_folder / "model.safetensors")
    del weights["decoder.weight"]
    expected = sum(float(tensor.sum()) for tensor in weights.values())
    assert found["checksum"] == pytest.approx(expected, abs=1e-2)
    assert found["seconds"] > 0


def test_the_page_has_a_row_per_batch_and_per_way_of_loading() -> None:
    speeds = [Speed("full", "fp32", 20.0, 16.0, 1.25, 9)]
    way = {"weights_mib": 400.0, "seconds": 1.5, "peak_mib": 420.0, "peak_over_weights": 1.05}
    page = report(speeds, {"transformers": way})
    assert "| full | fp32 | 20.0 | 16.0 | 1.25 |" in page
    assert "| transformers | 400.0 | 1.5 | 420.0 | 1.05 |" in page
