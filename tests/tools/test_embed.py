"""A vector per line, the same whatever stands beside it, and no half-written file."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.testing import assert_close

import neobert
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.model.encode import TEXTS_AT_ONCE
from neobert.tools import pseudo_perplexity
from neobert.tools.embed import main

TEXTS = ["the capital of the country", "a river", "", "sea " * 90, "of the city and the north"]


@pytest.fixture
def texts(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def pooled(folder: Path, text: str, pooling: str) -> torch.Tensor:
    tokenizer = saved_tokenizer(folder)
    ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)["input_ids"]
    with torch.no_grad():
        hidden = neobert.load(folder)(ids).last_hidden_state[0]
    return {"avg": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0)}[pooling]


@pytest.mark.parametrize("pooling", ["avg", "cls", "max"])
@pytest.mark.parametrize("tokens_per_batch", [1, 8192])
def test_vectors_are_pooled_hidden_states_in_the_order_of_lines(
    model_folder, texts, tmp_path, pooling, tokens_per_batch
) -> None:
    output = tmp_path / "vectors.npy"
    options = ["--pooling", pooling, "--tokens-per-batch", str(tokens_per_batch)]
    assert main([str(model_folder), str(texts), "--output", str(output), *options]) == 0
    expected = torch.stack([pooled(model_folder, text, pooling) for text in TEXTS])
    assert_close(torch.from_numpy(np.load(output)), expected, atol=1e-5, rtol=0)


def test_both_kinds_of_file_hold_a_row_per_line(model_folder, texts, tmp_path) -> None:
    array, table = tmp_path / "vectors.npy", tmp_path / "vectors.parquet"
    for output in (array, table):
        assert main([str(model_folder), str(texts), "--output", str(output), "--normalize"]) == 0
    vectors = np.load(array)
    assert vectors.shape == (len(TEXTS), 64)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    rows = pq.read_table(table)
    assert rows["text"].to_pylist() == TEXTS
    np.testing.assert_array_equal(np.stack(rows["embedding"].to_numpy()), vectors)


def test_more_lines_than_are_held_at_once_and_a_prefix(model_folder, tmp_path) -> None:
    many = tmp_path / "many.txt"
    many.write_text("".join(f"{TEXTS[row % 2]}\n" for row in range(TEXTS_AT_ONCE + 3)))
    output = tmp_path / "vectors.npy"
    assert main([str(model_folder), str(many), "--output", str(output), "--prefix", "a "]) == 0
    vectors = np.load(output)
    assert len(vectors) == TEXTS_AT_ONCE + 3
    expected = pooled(model_folder, "a the capital of the country", "avg").numpy()
    np.testing.assert_allclose(vectors[[0, TEXTS_AT_ONCE + 2]], [expected] * 2, atol=1e-5)


def test_an_empty_file_gives_no_rows(model_folder, tmp_path) -> None:
    (tmp_path / "empty.txt").write_text("")
    for suffix in ("npy", "parquet"):
        output = tmp_path / f"vectors.{suffix}"
        assert main([str(model_folder), str(tmp_path / "empty.txt"), "--output", str(output)]) == 0
    assert np.load(tmp_path / "vectors.npy").shape == (0, 64)
    assert pq.read_table(tmp_path / "vectors.parquet").num_rows == 0


def test_what_is_there_is_replaced_only_when_told(model_folder, texts, tmp_path, capsys) -> None:
    output = tmp_path / "vectors.npy"
    output.write_text("of another model")
    command = [str(model_folder), str(texts), "--output", str(output)]
    assert main(command) == 1
    assert "give --overwrite" in capsys.readouterr().err
    assert output.read_text() == "of another model"
    assert main([*command, "--overwrite"]) == 0
    assert len(np.load(output)) == len(TEXTS)


def test_a_file_that_cannot_be_read_leaves_nothing(model_folder, tmp_path, capsys) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"a river\n" * (TEXTS_AT_ONCE + 9) + b"\xff\xfe\n")
    for suffix in ("npy", "parquet", "csv"):
        assert main([str(model_folder), str(bad), "--output", str(tmp_path / f"v.{suffix}")]) == 1
    assert "must end in .npy or .parquet" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.txt"]


ODD = "\ufeffthe capital\ra river\r\nof the\u2028city\n\nsea"
ODD_LINES = ["the capital\ra river", "of the\u2028city", "", "sea"]


def test_all_tools_read_the_same_lines(model_folder, tmp_path) -> None:
    texts, vectors, scores = (tmp_path / name for name in ("odd.txt", "v.parquet", "s.csv"))
    texts.write_bytes(ODD.encode())
    assert main([str(model_folder), str(texts), "--output", str(vectors)]) == 0
    assert pq.read_table(vectors)["text"].to_pylist() == ODD_LINES
    assert pseudo_perplexity.main([str(model_folder), str(texts), "--output", str(scores)]) == 0
    assert len(pseudo_perplexity.read_scores(scores)) == len(ODD_LINES)


@pytest.mark.parametrize("program", [main, pseudo_perplexity.main])
def test_texts_may_be_a_column(program, model_folder, tmp_path, capsys) -> None:
    rows = [{"doc": {"body": text}, "n": 1} for text in ("the capital", "a river", None)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    output = tmp_path / ("out.parquet" if program is main else "out.csv")
    arguments = [str(model_folder), str(tmp_path / "a.jsonl.gz"), "--output", str(output)]
    assert program(arguments) == 1
    assert "--text-column: " in capsys.readouterr().err
    assert program([*arguments, "--text-column", "doc.body"]) == 0
    if program is main:
        assert pq.read_table(output)["text"].to_pylist() == ["the capital", "a river", ""]
    else:
        assert len(pseudo_perplexity.read_scores(output)) == 3


def test_a_file_that_is_no_text_is_one_clear_error(model_folder, tmp_path, capsys) -> None:
    (tmp_path / "texts").write_bytes(b"good\nna\xefve\n")
    output = tmp_path / "vectors.npy"
    assert main([str(model_folder), str(tmp_path / "texts"), "--output", str(output)]) == 1
    assert "texts, line 2: not UTF-8 (byte 0xef at 2)" in capsys.readouterr().err
    assert not output.exists()
