"""The dotted keys of ``Config``: their types, and how to tell that one was meant."""

import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from neobert.config.familiar import FAMILIAR
from neobert.config.root import Config
from neobert.config.section import kinds_of, section_of

Flat = dict[str, object]
"""Values by dotted key."""

ENTRY_KEY = re.compile(r"(\w+(?:\.\w+)*?)\.(\d{1,4})\.(.+)")
"""A setting of one entry of a list of sections, ``stages.0.lr``, or within it,
``stages.0.mixture.web``."""


@cache
def sections() -> dict[str, type]:
    """Dataclass of every section, by dotted name: ``""``, ``model``, ``optimizer.muon_config``."""
    return dict(_sections_of(Config, ""))


def _sections_of(section: type, name: str) -> Iterator[tuple[str, type]]:
    yield name, section
    for field, kind in get_type_hints(section).items():
        if (inner := section_of(kind)) is not None:
            yield from _sections_of(inner, joined(name, field))


@cache
def field_types() -> dict[str, Any]:
    """Type of every key, by dotted name; sections left out."""
    return {
        joined(name, field): kind
        for name, section in sections().items()
        for field, kind in get_type_hints(section).items()
        if section_of(kind) is None
    }


def joined(section: str, field: str) -> str:
    """The dotted key of a field."""
    return f"{section}.{field}" if section else field


def default_of(key: str) -> object:
    """The dataclass's default of a key."""
    section, _, field = key.rpartition(".")
    return getattr(sections()[section](), field)


def parents(key: str) -> Iterator[str]:
    """``a`` and ``a.b`` of ``a.b.c``."""
    parts = key.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def is_free_form(key: str) -> bool:
    """Whether the value of ``key`` is a mapping with keys of the user's choice."""
    return get_origin(field_types().get(key)) is dict


def mapping_of(key: str) -> str | None:
    """The free-form key that ``key`` is an entry of, e.g. ``mteb_local`` for ``mteb_local.A``."""
    return next(filter(is_free_form, parents(key)), None)


def entry_of(key: str) -> tuple[str, int, list[str]] | None:
    """The list of sections, number and path that ``stages.0.lr`` stands for; else ``None``."""
    match = ENTRY_KEY.fullmatch(key)
    if match is None or entries_of(field_types().get(match[1])) is None:
        return None
    return match[1], int(match[2]), match[3].split(".")


def is_text(kind: Any) -> bool:
    """Whether ``kind`` takes text and no number, so that ``1.10`` is text and stays as written."""
    kinds = kinds_of(kind)
    return str in kinds and not {int, float} & set(kinds)


def entries_of(kind: Any) -> type | None:
    """The dataclass of the entries of a list of sections; ``None`` for every other type."""
    return section_of(get_args(kind)[0]) if get_origin(kind) is list else None


def flatten(values: Mapping[Any, object], section: str = "") -> Flat:
    """Nested mappings as dotted keys. Free-form mappings, settings of an entry of a list and empty
    sections stay values."""
    flat: Flat = {}
    for name, value in values.items():
        key = joined(section, str(name))
        is_value = is_free_form(key) or entry_of(key) is not None
        if isinstance(value, Mapping) and value and not is_value:
            flat |= flatten(value, key)
        else:
            flat[key] = value
    return flat


def nearest(key: str) -> str:
    """ "; did you mean …?", or an empty text if no key resembles ``key``."""
    key = key.lower()
    last = key.rpartition(".")[2]
    by_last = {known.rpartition(".")[2]: known for known in reversed(field_types())}
    close = get_close_matches(key, field_types(), n=5, cutoff=0.75)
    match = (
        FAMILIAR.get(last)
        or next((known for known in close if _resembles(last, known.rpartition(".")[2])), None)
        or by_last.get(last)
        or next((by_last[name] for name in get_close_matches(last, by_last, 1, 0.75)), None)
    )
    return f"; did you mean {match}?" if match else ""


def _resembles(name: str, known: str) -> bool:
    """Whether the names of two keys are alike, whatever section they are in."""
    return SequenceMatcher(None, name, known).ratio() >= 0.6
