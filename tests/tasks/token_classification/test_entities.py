"""Entities and their scores. The expected values are those of seqeval 1.2.2 (its default mode)."""

import pytest

from neobert.tasks.token_classification.entities import entities, entity_scores, has_entities


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-X I-X O B-Y", [("X", 0, 2), ("Y", 3, 4)]),
        ("B-X B-X I-X", [("X", 0, 1), ("X", 1, 3)]),
        ("I-X I-X O I-Y", [("X", 0, 2), ("Y", 3, 4)]),
        ("B-X I-Y I-Y", [("X", 0, 1), ("Y", 1, 3)]),
        ("S-X B-X I-X E-X O S-Y", [("X", 0, 1), ("X", 1, 4), ("Y", 5, 6)]),
        ("B-X E-X I-X", [("X", 0, 2), ("X", 2, 3)]),
        ("E-X I-X S-X", [("X", 0, 1), ("X", 1, 2), ("X", 2, 3)]),
        ("B-a-b I-a-b I-b", [("a-b", 0, 2), ("b", 2, 3)]),
        ("O O", []),
    ],
)
def test_entities_of_a_row(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == expected


def test_scores_over_all_and_by_type() -> None:
    gold = ["B-PER I-PER O B-LOC", "O B-LOC I-LOC", "B-PER O O"]
    predicted = ["B-PER I-PER O B-PER", "O B-LOC O", "B-PER O B-LOC"]
    scores = entity_scores([row.split() for row in gold], [row.split() for row in predicted])
    assert scores["precision"] == pytest.approx(2 / 5)
    assert scores["recall"] == pytest.approx(2 / 4)
    assert scores["f1"] == pytest.approx(4 / 9)
    assert scores["f1_PER"] == pytest.approx(0.8)
    assert scores["f1_LOC"] == 0.0
    assert scores["recall_PER"] == 1.0


def test_which_tags_mark_entities() -> None:
    assert has_entities(["O", "B-X", "I-X"])
    assert not has_entities(["NOUN", "VERB"])
    assert not has_entities(["O", "B-X", "NOUN"])
    assert not has_entities(["O"])
