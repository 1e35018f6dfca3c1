"""Exact match, F1 and the threshold by SQuAD's rules."""

import pytest

from neobert.tasks.question_answering.answer_metrics import (
    best_threshold,
    exact_match,
    f1,
    normalized,
    squad_scores,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Panthers!", "panthers"),
        ("an apple, a day", "apple day"),
        ("theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("a-b", "ab"),
        ("The", ""),
    ],
)
def test_normalized(text: str, expected: str) -> None:
    assert normalized(text) == expected


def test_the_best_of_several_answers_counts() -> None:
    assert exact_match("the 24 points", ["24", "24 points."]) == 1.0
    assert f1("24 big points", ["24", "24 points"]) == pytest.approx(0.8)
    assert f1("b b", ["b"]) == pytest.approx(2 / 3)
    assert f1("nothing", ["24"]) == 0.0


def test_no_answer_is_right_only_where_there_is_none() -> None:
    gold = {"has": ["x y"], "none": [], "guessed": []}
    scores = squad_scores({"has": "x", "none": "", "guessed": "x"}, gold)
    assert scores["f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores["exact_match"] == pytest.approx(1 / 3)
    assert scores["f1_answerable"] == pytest.approx(2 / 3)
    assert scores["exact_match_unanswerable"] == pytest.approx(1 / 2)
    assert set(squad_scores({"has": "x"}, gold)) == {"exact_match", "f1"}


def test_the_threshold_of_highest_f1() -> None:
    answers = {"a": "x", "b": "x", "c": "x", "d": "x"}
    gold = {"a": ["x"], "b": [], "c": ["x"], "d": []}
    odds = {"a": -0.9, "b": 0.8, "c": 0.1, "d": 0.9}
    assert best_threshold(answers, odds, gold) == 0.1
    assert best_threshold(answers, odds, {name: [] for name in "abcd"}) < min(odds.values())
    assert best_threshold(answers, odds, {name: ["x"] for name in "abcd"}) == 0.9
    same = dict.fromkeys("abcd", 0.5)
    assert best_threshold(answers, same, gold) in (-1.0, 0.5)
