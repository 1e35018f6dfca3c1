"""Pseudo-perplexity is that of its definition, and an interrupted file is continued."""

import math
from pathlib import Path

import pytest
import torch

import neobert
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.tools.pseudo_perplexity import (
    Score,
    Scorer,
    batches_by_length,
    main,
    read_scores,
    total,
)

TEXTS = ["the capital of the country is big", "a river", "", "unknown words here", "sea " * 9, "of"]


@pytest.fixture
def texts(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def by_definition(folder: Path, text: str) -> Score:
    """One masked copy after the other."""
    model, tokenizer = neobert.load(folder), saved_tokenizer(folder)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    nats = []
    for place in range(1, ids.shape[1] - 1):
        masked = ids.clone()
        masked[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            chances = model(masked).logits[0, place].log_softmax(-1)
        nats.append(-float(chances[ids[0, place]]))
    return Score(0, len(nats), sum(nats))


@pytest.mark.parametrize("tokens_per_batch", [1, 12, 8192])
def test_scores_are_those_of_the_definition(model_folder, tokens_per_batch) -> None:
    scorer = Scorer(
        neobert.load(model_folder),
        saved_tokenizer(model_folder),
        tokens_per_batch=tokens_per_batch,
    )
    scores = list(scorer.scores(enumerate(TEXTS)))
    assert [score.text for score in scores] == list(range(len(TEXTS)))
    for score, text in zip(scores, TEXTS, strict=True):
        expected = by_definition(model_folder, text)
        assert score.tokens == expected.tokens
        assert score.nats == pytest.approx(expected.nats, abs=1e-4)
    assert scores[1].pseudo_perplexity == pytest.approx(math.exp(scores[1].nats / 2))
    assert scores[2].pseudo_perplexity == 1
    assert scores[1].bits_per_byte == pytest.approx(scores[1].nats / math.log(2) / len("a river"))
    assert scores[2].bits_per_byte == 0


def test_a_text_that_is_cut_off_counts_the_bytes_of_what_is_left(model_folder) -> None:
    tokenizer = saved_tokenizer(model_folder)
    scorer = Scorer(neobert.load(model_folder), tokenizer, max_length=4)
    text = "sea " * 8
    (score,) = scorer.scores([(0, text)])
    assert (score.tokens, score.bytes) == (
        2,
        round(len(text) * 4 / len(tokenizer(text)["input_ids"])),
    )


def test_an_interrupted_file_is_continued(model_folder, texts, tmp_path, capsys) -> None:
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    assert main([str(model_folder), str(texts), "--output", str(whole)]) == 0
    assert main([str(model_folder), str(texts), "--output", str(cut)]) == 0
    lines = cut.read_text().splitlines()
    cut.write_text("\n".join(lines[:3]) + "\n" + lines[3][:4])  # killed while it wrote
    capsys.readouterr()
    assert main([str(model_folder), str(texts), "--output", str(cut)]) == 0
    assert "has 2 texts; continuing" in capsys.readouterr().err
    for again, once in zip(read_scores(cut), read_scores(whole), strict=True):
        assert (again.text, again.tokens) == (once.text, once.tokens)
        assert again.nats == pytest.approx(once.nats, abs=1e-4)
    assert whole.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_scores_of_two_models_are_not_mixed(
    model_folder, other_folder, texts, tmp_path, capsys
) -> None:
    output = str(tmp_path / "scores.csv")
    assert main([str(model_folder), str(texts), "--output", output]) == 0
    assert main([str(other_folder), str(texts), "--output", output]) == 1
    assert "has scores with other model" in capsys.readouterr().err
    assert main([str(model_folder), str(texts), "--output", output, "--max-length", "5"]) == 1
    assert "other max_length" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "content"), [("s.json", "[1]"), ("s.json", "{"), ("s.png", "")])
def test_files_of_others_are_not_written_over(
    model_folder, texts, tmp_path, capsys, name, content
) -> None:
    (tmp_path / name).write_text(content)
    assert main([str(model_folder), str(texts), "--output", str(tmp_path / "s.csv")]) == 1
    assert f"{name} exists" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == content
    assert not (tmp_path / "s.csv").exists()


def test_a_file_without_a_word_is_scored(model_folder, tmp_path, capsys) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    output = tmp_path / "s.csv"
    assert main([str(model_folder), str(tmp_path / "empty.txt"), "--output", str(output)]) == 0
    assert read_scores(output) == [Score(0, 0, 0.0)]


def test_texts_are_put_together_by_length() -> None:
    scores = [
        Score(0, 1, 1.0),
        Score(1, 2, 4.0),
        Score(2, 3, 3.0),
        Score(3, 4, 11.0),
        Score(4, 0, 0),
    ]
    buckets = batches_by_length(scores)
    assert [(name, count) for name, count, _ in buckets] == [("1-1", 1), ("2-2", 1), ("3-4", 2)]
    assert buckets[2][2].pseudo_perplexity == pytest.approx(math.exp(2))
    assert total(scores).pseudo_perplexity == pytest.approx(math.exp(1.9))
