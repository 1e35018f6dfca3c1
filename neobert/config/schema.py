"""The dotted keys of ``Config``: their types, and how to tell that one was meant."""

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from neobert.config.familiar import FAMILIAR
from neobert.config.root import Config

Flat = dict[str, object]
"""Values by dotted key."""

ENTRY_KEY = re.compile(r"(\w+(?:\.\w+)*)\.(\d{1,4})\.(\w+)")
"""A setting of one entry of a list of sections: ``stages.0.lr``."""

NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    type(None): "null",
    Any: "anything",
}


@cache
def field_types() -> dict[str, Any]:
    """Type of every key, by dotted name; sections left out."""
    return dict(_walk(Config, ""))


@cache
def sections() -> dict[str, type]:
    """Dataclass of every section, by dotted name: ``model``, …, ``optimizer.muon_config``."""
    return dict(_walk_sections(Config, ""))


@cache
def free_form() -> frozenset[str]:
    """Keys whose value is a mapping with keys of the user's choice."""
    return frozenset(key for key, kind in field_types().items() if get_origin(kind) is dict)


def mapping_of(key: str) -> str | None:
    """The free-form key that ``key`` is an entry of, e.g. ``mteb_local`` for ``mteb_local.A``."""
    return next((one for one in free_form() if key.startswith(f"{one}.")), None)


def entry_of(key: str) -> tuple[str, int, str] | None:
    """The list of sections, number and name that ``stages.0.lr`` stands for; else ``None``."""
    match = ENTRY_KEY.fullmatch(key)
    if match is None or entries_of(field_types().get(match[1])) is None:
        return None
    return match[1], int(match[2]), match[3]


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """The members of a union; a type that is none is its only member."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def is_text(kind: Any) -> bool:
    """Whether ``kind`` takes text and no number, so that ``1.10`` is text and stays as written."""
    kinds = kinds_of(kind)
    return str in kinds and not {int, float} & set(kinds)


def section_of(kind: Any) -> type | None:
    """The dataclass that a field's type is, or may be."""
    return next(
        (one for one in kinds_of(kind) if isinstance(one, type) and is_dataclass(one)), None
    )


def entries_of(kind: Any) -> type | None:
    """The dataclass of the entries of a list of sections; ``None`` for every other type."""
    return section_of(get_args(kind)[0]) if get_origin(kind) is list else None


def described(kind: Any) -> str:
    """Name of a type as a user reads it: ``integer or null``."""
    if len(kinds_of(kind)) > 1:
        return " or ".join(described(one) for one in kinds_of(kind))
    if get_origin(kind) is list:
        return f"list of {described(get_args(kind)[0])}s"
    return "mapping" if get_origin(kind) is dict else NAMES.get(kind, "section")


def flatten(values: Mapping[Any, object], prefix: str = "") -> Flat:
    """Nested mappings as dotted keys. Free-form mappings and empty sections stay values."""
    flat: Flat = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and dotted not in free_form():
            flat |= flatten(value, f"{dotted}.")
        else:
            flat[dotted] = value
    return flat


def nearest(key: str) -> str:
    """ "; did you mean …?", or an empty text if no key resembles ``key``."""
    key = key.lower()
    last = key.rpartition(".")[2]
    if last in FAMILIAR:
        return f"; did you mean {FAMILIAR[last]}?"
    by_last = {one.rpartition(".")[2]: one for one in reversed(field_types())}
    matches = get_close_matches(key, field_types(), n=1, cutoff=0.75)
    if not matches and last in by_last:
        matches = [by_last[last]]
    if not matches:
        matches = [by_last[one] for one in get_close_matches(last, by_last, n=1, cutoff=0.75)]
    return f"; did you mean {matches[0]}?" if matches else ""


def _walk(section: type, prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, kind in get_type_hints(section).items():
        inner = section_of(kind)
        pairs += _walk(inner, f"{prefix}{name}.") if inner else [(f"{prefix}{name}", kind)]
    return pairs


def _walk_sections(section: type, prefix: str) -> list[tuple[str, type]]:
    pairs: list[tuple[str, type]] = []
    for name, kind in get_type_hints(section).items():
        if (inner := section_of(kind)) is not None:
            pairs += [(f"{prefix}{name}", inner), *_walk_sections(inner, f"{prefix}{name}.")]
    return pairs
