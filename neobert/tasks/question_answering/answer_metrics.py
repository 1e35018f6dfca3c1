"""Exact match and F1 by the rules of SQuAD's own evaluation, and the threshold of no answer.

Rajpurkar et al. 2016 (arXiv 1606.05250) and 2018 (arXiv 1806.03822). Scores are from 0 to 1.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """``text`` in lower case without punctuation, articles and superfluous spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 if ``answer`` is one of ``gold``, which is empty where there is no answer."""
    return float(normalized(answer) in {normalized(text) for text in _texts(gold)})


def f1(answer: str, gold: Sequence[str]) -> float:
    """Overlap in words with the best of ``gold``."""
    return max(
        _overlap(normalized(answer).split(), normalized(text).split()) for text in _texts(gold)
    )


def squad_scores(answers: Mapping[str, str], gold: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """``exact_match`` and ``f1`` over all questions in ``answers``.

    Where some have no answer, also those of both kinds, ending in ``_answerable`` and
    ``_unanswerable``.
    """
    kinds = {"": list(answers)}
    known = [name for name in answers if _texts(gold[name]) != [""]]
    if len(known) < len(answers):
        kinds["_answerable"] = known
        kinds["_unanswerable"] = [name for name in answers if _texts(gold[name]) == [""]]
    scores = {}
    for kind, names in kinds.items():
        if names:
            for metric in (exact_match, f1):
                values = [metric(answers[name], gold[name]) for name in names]
                scores[f"{metric.__name__}{kind}"] = float(np.mean(values))
    return scores


def best_threshold(
    answers: Mapping[str, str], odds: Mapping[str, float], gold: Mapping[str, Sequence[str]]
) -> float:
    """The threshold of highest F1; a question whose ``odds`` exceed it stays unanswered."""
    names = sorted(answers, key=odds.__getitem__)
    gains = [f1(answers[name], gold[name]) - float(_texts(gold[name]) == [""]) for name in names]
    sums = np.array([0.0, *np.cumsum(gains)])
    values = np.array([odds[name] for name in names])
    # A threshold parts only questions of unequal odds.
    possible = np.flatnonzero([True, *(values[1:] != values[:-1]), True])
    index = int(possible[np.argmax(sums[possible])])
    return float(values[index - 1]) if index else -1.0


def _texts(gold: Sequence[str]) -> list[str]:
    return [text for text in gold if normalized(text)] or [""]


def _overlap(answer: Sequence[str], gold: Sequence[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    common = sum((Counter(answer) & Counter(gold)).values())
    return 2 * common / (len(answer) + len(gold))
