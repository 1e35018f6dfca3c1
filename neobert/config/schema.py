"""The dotted keys of ``Config``: their types, and how to tell that one was meant."""

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from typing import Any, get_args, get_origin

from neobert.config.familiar import FAMILIAR
from neobert.config.root import Config
from neobert.config.section import (
    annotations_of,
    joined,
    kinds_of,
    limits_of,
    nearest_of,
    section_of,
    types_of,
)

Flat = dict[str, object]
"""Values by dotted key."""


@cache
def sections() -> dict[str, type]:
    """Dataclass of every section, by dotted name: ``""``, ``model``, ``optimizer.muon_config``."""
    return dict(_sections_of(Config, ""))


def _sections_of(section: type, name: str) -> Iterator[tuple[str, type]]:
    yield name, section
    for field, kind in types_of(section).items():
        if (inner := section_of(kind)) is not None:
            yield from _sections_of(inner, joined(name, field))


@cache
def field_types() -> dict[str, Any]:
    """Type of every key, by dotted name; sections left out."""
    return {
        joined(name, field): kind
        for name, section in sections().items()
        for field, kind in types_of(section).items()
        if section_of(kind) is None
    }


@cache
def choices() -> set[str]:
    """The settings that are one of a few words, which are written in any case."""
    return {
        joined(name, field)
        for name, section in sections().items()
        for field, kind in annotations_of(section).items()
        if any(limit.choices for limit in limits_of(kind))
    }


@cache
def type_of(key: str) -> Any:
    """The type of a setting, of a section, or of an entry of a mapping (``mteb_local.A.path``) or
    of a list of sections (``stages.0.lr``); ``None`` for an unknown key."""
    kind: Any = Config
    for part in key.split("."):
        if (section := section_of(kind)) is not None:
            kind = types_of(section).get(part)
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif entries_of(kind) is not None and part.isdigit():
            kind = entries_of(kind)
        elif kind is not Any:
            return None
    return kind


def setting_of(key: str) -> str:
    """The setting that ``key`` is, or is an entry of: ``stages`` for ``stages.0.lr``."""
    parts = key.split(".")
    names = (".".join(parts[:length]) for length in range(1, len(parts)))
    return next((name for name in names if name in field_types()), key)


def default_of(key: str) -> object:
    """The dataclass's default of a key."""
    section, _, field = key.rpartition(".")
    return getattr(sections()[section](), field)


def is_text(kind: Any) -> bool:
    """Whether ``kind`` takes text, or a list of texts, and no number: ``1.10`` stays as written."""
    kinds = kinds_of(get_args(kind)[0] if get_origin(kind) is list else kind)
    return str in kinds and not {int, float} & set(kinds)


def entries_of(kind: Any) -> type | None:
    """The dataclass of the entries of a list of sections; ``None`` for every other type."""
    return section_of(get_args(kind)[0]) if get_origin(kind) is list else None


def flatten(values: Mapping[Any, object], section: str = "") -> Flat:
    """Nested mappings as dotted keys. The values of mappings of the user's own keys, and empty
    sections, stay values."""
    flat: Flat = {}
    for name, value in values.items():
        key = joined(section, str(name))
        kind = type_of(key)
        has_keys = kind in (None, Any) or section_of(kind) is not None
        if isinstance(value, Mapping) and value and has_keys:
            flat |= flatten(value, key)
        else:
            flat[key] = value
    return flat


def nearest(key: str) -> str:
    """ "; did you mean …?", or an empty text if no key resembles ``key``."""
    owner, _, last = key.lower().rpartition(".")
    if (entry := section_of(type_of(owner))) is not None and owner not in sections():
        return nearest_of(last, types_of(entry))
    by_last = {known.rpartition(".")[2]: known for known in reversed(field_types())}
    close = get_close_matches(key.lower(), field_types(), n=5, cutoff=0.75)
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
