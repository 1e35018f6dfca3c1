"""Entities in sequences of tags, and their precision, recall and F1.

The rules are those of the CoNLL-2000 and 2003 evaluation (``conlleval``), which ``seqeval`` has as
its default: an entity is a maximal run of words of one type. In BIO, ``B-`` begins one, and ``I-``
continues one of its type or begins one. In IOBES, ``S-`` is one of a single word and ``E-`` ends
one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PREFIXES = frozenset("BIESLU")
"""Begin, inside, end, single; ``L`` and ``U`` are end and single in BILOU."""

ENDS = frozenset("ESLU")
SINGLE = frozenset("SU")

Entity = tuple[str, int, int]
"""Type, first word, and the word after the last."""


def has_entities(tags: Sequence[str]) -> bool:
    """Whether ``tags`` mark entities: all are ``O`` or have a prefix such as ``B-``."""
    marked = [tag for tag in tags if tag != "O"]
    return bool(marked) and all(tag[0] in PREFIXES and tag[1:2] == "-" for tag in marked)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of one sequence of tags, in their order."""
    spans: list[Entity] = []
    kind, first = "", -1
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        continues = prefix not in ("O", "B") and prefix not in SINGLE and name == kind
        if first >= 0 and not continues:
            spans.append((kind, first, place))
            first = -1
        if prefix == "O":
            continue
        if first < 0:
            kind, first = name, place
        if prefix in ENDS:
            spans.append((kind, first, place + 1))
            first = -1
    return spans


@dataclass(slots=True)
class Counts:
    """Entities of one type, or of all."""

    predicted: int = 0
    gold: int = 0
    correct: int = 0

    def scores(self) -> dict[str, float]:
        """Precision, recall and F1; 0 where they are not defined."""
        precision = self.correct / max(1, self.predicted)
        recall = self.correct / max(1, self.gold)
        f1 = 2 * precision * recall / max(1e-12, precision + recall)
        return {"precision": precision, "recall": recall, "f1": f1 if self.correct else 0.0}


def entity_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """``precision``, ``recall`` and ``f1`` over all entities (micro), and of each type with
    ``_<type>`` behind the name. Both hold a sequence of tags per row.
    """
    total, by_type = Counts(), dict[str, Counts]()
    for gold_row, predicted_row in zip(gold, predicted, strict=True):
        expected, marked = set(entities(gold_row)), set(entities(predicted_row))
        for kind in {entity[0] for entity in expected | marked}:
            of_kind = by_type.setdefault(kind, Counts())
            for counts in (total, of_kind):
                counts.gold += sum(entity[0] == kind for entity in expected)
                counts.predicted += sum(entity[0] == kind for entity in marked)
                counts.correct += sum(entity[0] == kind for entity in expected & marked)
    scores = total.scores()
    for kind in sorted(by_type):
        scores |= {f"{name}_{kind}": score for name, score in by_type[kind].scores().items()}
    return scores
