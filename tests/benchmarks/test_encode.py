"""All ways of encoding give the same vectors, and each has its speed."""

import json
from pathlib import Path

import pytest

from benchmarks.encode import (
    BERT,
    EXPORTED,
    IN_ORDER,
    MODERNBERT,
    PACKED,
    PADDED,
    main,
    sample,
    short_texts,
)


@pytest.mark.filterwarnings("default")  # of sentence-transformers
def test_packed_and_padded_ways_agree_and_are_timed(
    model_folder: Path, tmp_path: Path, capsys
) -> None:
    output = tmp_path / "bench"
    words = ["--texts", "12", "--rounds", "2", "--batch-size", "4", "--output", str(output)]
    words += ["--streams", "1000", "9000"]
    assert main([str(model_folder), *words]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["texts"] == 12
    assert list(found["sentences_per_sec"]) == [
        PACKED,
        EXPORTED,
        PADDED,
        IN_ORDER,
        BERT,
        MODERNBERT,
    ]
    assert all(len(rates) == 2 for rates in found["sentences_per_sec"].values())
    assert found["ratios"][PACKED] == 1
    assert 0 <= found["added_mib"]["1000"] < 50
    assert 0 <= found["added_mib"]["9000"] < 50
    assert found["smallest_cosine"] > 0.99999
    assert found["smallest_cosine_bf16"] > 0.999
    assert "| packed (TextEncoder) |" in (tmp_path / "bench.md").read_text()


def test_a_folder_without_a_model_is_named(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path), "--texts", "2"]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_short_texts_are_all_different() -> None:
    texts = list(short_texts(5000))
    assert len(set(texts)) == 5000
    assert {len(text.split()) for text in texts} == {8}


def test_texts_are_spread_over_the_corpus() -> None:
    texts = sample(50)
    assert len(texts) == len(set(texts)) == 50
    lengths = [len(text.split()) for text in texts]
    assert max(lengths) > 3 * min(lengths)
