"""Pairs that need no hub: fields of the World Factbook, glosses of WordNet."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from neobert.data.corpora import corpus_folder, factbook_fields, is_held_out
from neobert.errors import ConfigError

SHORTEST = 8
"""Words of a Factbook text that says something; shorter ones are mostly numbers."""

WORDNET_PLACES = ("/usr/share/wordnet", "/usr/share/wordnet-3.0/dict")
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")


@dataclass(frozen=True, slots=True)
class Example:
    """A query, a document that answers it, and documents that do not."""

    query: str
    positive: str
    negatives: list[str] = field(default_factory=list)
    group: str | None = None
    """The class; ``None``: the query is its own."""

    held_out: bool | None = None
    """Whether the example is for evaluation; ``None``: the settings decide."""


def factbook_pairs(folder: str = "") -> Iterator[Example]:
    """``Climate of Croatia`` → the text of that field, which need not name either.

    Held out are the countries that pretraining holds out too.
    """
    for entry in factbook_fields(corpus_folder("factbook")):
        if len(entry.text.split()) >= SHORTEST:
            query = f"{entry.field} of {entry.country}"
            yield Example(query, entry.text, held_out=is_held_out(entry.page))


def wordnet_pairs(folder: str = "") -> Iterator[Example]:
    """The words of a synset → its definition, without the examples of use.

    From ``data.noun``, ``.verb``, ``.adj`` and ``.adv`` in ``folder``, or where Debian's package
    wordnet-base puts them. The format is that of the manual page wndb(5).
    """
    places = [Path(folder)] if folder else [Path(place) for place in WORDNET_PLACES]
    dictionary = next((place for place in places if (place / "data.noun").is_file()), None)
    if dictionary is None:
        raise ConfigError(
            f"dataset.name=WORDNET: no data.noun in {', '.join(map(str, places))}; install "
            "Debian's wordnet-base, or put WordNet's data.* files into "
            "<contrastive.sources_dir>/WORDNET"
        )
    for part in PARTS_OF_SPEECH:
        with (dictionary / f"data.{part}").open(encoding="utf-8") as file:
            for line in file:
                if not line.startswith("  "):  # the licence is indented
                    yield _synset(line)


def _synset(line: str) -> Example:
    data, _, gloss = line.partition("|")
    columns = data.split()
    count = int(columns[3], 16)
    words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in columns[4::2][:count]]
    definition = re.split(r';\s*"', gloss.strip())[0].strip()
    return Example(", ".join(dict.fromkeys(words)), definition)
