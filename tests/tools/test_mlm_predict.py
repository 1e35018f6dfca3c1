"""Masked words are filled in with probabilities of the whole vocabulary."""

import io
import re

import pytest
import torch
from torch.testing import assert_close

import neobert
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.tools.mlm_predict import MaskFiller, main

TEXTS = ["the capital of [MASK] is big", "a [MASK] and a [MASK]"]


def typed(text: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(text.encode()))


def test_probabilities_are_those_of_the_full_softmax(model_folder) -> None:
    model, tokenizer = neobert.load(model_folder), saved_tokenizer(model_folder)
    (first,), both = MaskFiller(model, tokenizer, "cpu").fill(TEXTS, top_k=4)
    assert len(both) == 2
    for text, masks in zip(TEXTS, [[first], both], strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            chances = model(ids).logits.softmax(-1)[ids == tokenizer.mask_token_id]
        for guesses, row in zip(masks, chances, strict=True):
            best = row[: len(tokenizer)].topk(4)
            assert [guess.token for guess in guesses] == tokenizer.batch_decode(
                best.indices[:, None]
            )
            assert_close(torch.tensor([guess.probability for guess in guesses]), best.values)
            assert sum(row[len(tokenizer) :]) > 0  # rows that stand for no token have a share too


def test_texts_come_from_the_command_line_or_standard_input(
    model_folder, capsys, monkeypatch
) -> None:
    assert main([str(model_folder), *TEXTS, "--top-k", "2"]) == 0
    from_arguments = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", typed("\n".join(TEXTS) + "\n\n"))
    assert main([str(model_folder), "--top-k", "2"]) == 0
    assert capsys.readouterr().out == from_arguments
    lines = from_arguments.splitlines()
    assert lines[0] == TEXTS[0]
    assert re.fullmatch(r"  mask 1: \S+ 0\.\d{4}, \S+ 0\.\d{4}", lines[1])
    assert lines[2] == TEXTS[1]
    assert lines[4].startswith("  mask 2: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [("no mask here", "no [MASK] in the text"), ("the " * 70 + "[MASK]", "a text of 73 tokens")],
)
def test_a_text_that_cannot_be_answered_is_named(model_folder, capsys, text, message) -> None:
    assert main([str(model_folder), text]) == 1
    assert message in capsys.readouterr().err


def test_a_bad_line_of_a_pipe_costs_no_other_its_answer(model_folder, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", typed(f"\ufeff{TEXTS[0]}\r\nno mask here\n{TEXTS[1]}\n"))
    assert main([str(model_folder)]) == 1
    shown = capsys.readouterr()
    assert [line for line in shown.out.splitlines() if "mask " not in line] == TEXTS
    assert shown.err.count("no [MASK] in the text 'no mask here'") == 1


@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_fewer_than_one_guess_is_refused(model_folder, capsys, number) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(model_folder), "[MASK]", "--top-k", number])
    assert "--top-k" in capsys.readouterr().err


def test_a_folder_without_a_model_is_named(tmp_path, capsys) -> None:
    assert main([str(tmp_path), "[MASK]"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
