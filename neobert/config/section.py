"""Settings in plain Python: their types, what people mean by a value, and its checks."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache, partial
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from neobert.config.checks import Limit, broken
from neobert.errors import ConfigError

NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    type(None): "null",
    Any: "anything",
}

LARGEST = 2**63
"""No integer setting is that large: PyTorch's are of 64 bits."""

BOOLEANS = ("true", "yes", "on", "1", "false", "no", "off", "0")


class Section:
    """Base of the configuration's dataclasses: refuses unknown attributes and illegal values.

    The constructor takes what it is given, so that all problems are reported together when the
    configuration is used.
    """

    def __setattr__(self, name: str, value: object) -> None:
        """Assign a setting; raises ``ConfigError``, and keeps the old value, if it is wrong."""
        kind = annotations_of(type(self)).get(name)
        if kind is None:
            raise ConfigError(_unknown(self, name))
        is_new = name not in self.__dict__  # within the constructor
        if not is_new and (problems := value_problems(_key(self, name), value, kind)):
            raise ConfigError(*problems)
        object.__setattr__(self, name, value)

    def problems(self) -> list[str]:
        """Everything that is wrong with the settings of this section; empty if nothing is."""
        key = _key(self, "").rstrip(".")
        return [*value_problems(key, self, type(self)), *self.combinations()]

    def combinations(self) -> list[str]:
        """What is wrong with several settings together, each of which may be right."""
        return []


types_of = cast(Callable[[type], dict[str, Any]], cache(get_type_hints))
"""The types of a section's fields."""

annotations_of = cast(
    Callable[[type], dict[str, Any]], cache(partial(get_type_hints, include_extras=True))
)
"""The same with the limits of the values."""


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """The members of a union; a type that is none is its only member."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def section_of(kind: Any) -> type | None:
    """The dataclass that a field's type is, or may be."""
    members = (member for member in kinds_of(kind) if isinstance(member, type))
    return next(filter(is_dataclass, members), None)


def described(kind: Any) -> str:
    """Name of a type as a user reads it: ``integer or null``."""
    if len(kinds_of(kind)) > 1:
        return " or ".join(map(described, kinds_of(kind)))
    if get_origin(kind) is Annotated:
        return described(get_args(kind)[0])
    if get_origin(kind) is list:
        return f"list of {described(get_args(kind)[0])}s"
    return "mapping" if get_origin(kind) is dict else NAMES.get(kind, "section")


def fits(value: object, kind: Any) -> bool:
    """Whether ``value`` has the type ``kind`` of a field; an integer is a number too."""
    if kind is Any:
        return True
    if len(kinds_of(kind)) > 1:
        return any(fits(value, member) for member in kinds_of(kind))
    if get_origin(kind) is Annotated:
        return fits(value, get_args(kind)[0])
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        return isinstance(value, list | tuple) and all(fits(entry, inner) for entry in value)
    allowed = (int, float) if kind is float else get_origin(kind) or kind
    return isinstance(value, allowed) and (kind not in (int, float) or _is_number(value, kind))


def as_meant(value: object, kind: Any) -> object:
    """``value`` in the form that OmegaConf takes for ``kind``, the type of a dataclass field.

    Interpolations stay. Raises ``ValueError`` for what OmegaConf would take and nobody means: an
    infinite number, ``2`` for a boolean.
    """
    kinds = kinds_of(kind)
    if value is None or (isinstance(value, str) and "${" in value):
        return value
    if type(None) in kinds and str(value).lower() in ("null", "none"):
        return None
    if get_origin(kind) is dict and isinstance(value, dict):
        return {str(key): as_meant(entry, get_args(kind)[1]) for key, entry in value.items()}
    if get_origin(kind) is list:
        parts = [part for part in value.split(",") if part] if isinstance(value, str) else value
        inner = get_args(kind)[0]
        return [as_meant(part, inner) for part in parts] if isinstance(parts, list) else parts
    if {int, float} & set(kinds):
        return _number(value, kinds)
    if str in kinds and (isinstance(value, dict | list) or "\0" in str(value)):
        raise ValueError
    if bool in kinds and str(value).lower() not in BOOLEANS:
        raise ValueError
    return str(value).lower() if str in kinds and isinstance(value, bool) else value


def limits_of(kind: Any) -> tuple[Limit, ...]:
    """The limits in the type of a field."""
    annotated = (member for member in kinds_of(kind) if get_origin(member) is Annotated)
    return next((member.__metadata__ for member in annotated), ())


def type_problems(section: Section) -> list[str]:
    """The values of ``section``, and of the sections in it, that have another type."""
    return [
        _mistyped(key, value, kind)
        for key, value, kind in _values_of("", section, type(section))
        if not fits(value, kind)
    ]


def value_problems(key: str, value: object, kind: Any) -> list[str]:
    """What is wrong with a value, and with those in it: their types, and the limits in them."""
    problems = []
    for place, inner, its_kind in _values_of(key, value, kind):
        if not fits(inner, its_kind):
            problems.append(_mistyped(place, inner, its_kind))
        elif inner is not None:
            problems += broken(place, inner, *limits_of(its_kind))
    return problems


def mapping_problems(key: str, values: Mapping[Any, Any], kinds: Mapping[str, Any]) -> list[str]:
    """What is wrong with a mapping that may have the keys of ``kinds``, with values of these."""
    problems = []
    for name, value in values.items():
        if name in kinds:
            problems += value_problems(f"{key}.{name}", value, kinds[name])
        else:
            problems.append(f"unknown key {key}.{name}{nearest_of(str(name), kinds, f'{key}.')}")
    return problems


def nearest_of(name: str, known: Collection[str], section: str = "") -> str:
    """ "; did you mean …?" with the one of the ``known`` names that is like ``name``, or all."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {section}{close[0]}?" if close else f"; it has {', '.join(known)}"


def joined(section: str, field: str) -> str:
    """The dotted key of a field."""
    return f"{section}.{field}" if section else field


def _values_of(key: str, value: Any, kind: Any) -> Iterator[tuple[str, object, Any]]:
    """A value, and those in it, each with its key and its type."""
    yield key, value, kind
    if isinstance(value, Section):
        for name, inner in annotations_of(type(value)).items():
            yield from _values_of(joined(key, name), getattr(value, name), inner)
        return
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(kind) is list and fits(value, kind):
        for number, entry in enumerate(value):
            place = f"{key}[{number}]" if isinstance(entry, Section) else key
            yield from _values_of(place, entry, get_args(kind)[0])
    elif get_origin(kind) is dict and fits(value, kind):
        for name, entry in value.items():
            yield from _values_of(f"{key}.{name}", entry, get_args(kind)[1])


def _mistyped(key: str, value: object, kind: Any) -> str:
    return f"{key}={value!r}: must be {described(kind)}"


def _key(section: Section, name: str) -> str:
    """The dotted key of a setting."""
    from neobert.config.schema import sections  # it imports the sections

    keys = (key for key, kind in sections().items() if kind is type(section))
    return joined(next(keys, ""), name)


def _unknown(section: Section, name: str) -> str:
    from neobert.config.schema import nearest  # it imports the sections

    key = _key(section, name)
    return f"unknown key {key}{nearest(key)}"


def _number(value: object, kinds: tuple[Any, ...]) -> object:
    if isinstance(value, bool):
        raise ValueError
    try:
        number = value if isinstance(value, int) else float(str(value))
    except ValueError:
        if str in kinds:
            return value
        raise
    if not math.isfinite(number) or (abs(number) >= LARGEST and int in kinds):
        raise ValueError
    return int(number) if int in kinds and number == int(number) else number


def _is_number(value: object, kind: Any) -> bool:
    """Whether the command line would take ``value``: finite, and no boolean."""
    try:
        return _number(value, (kind,)) is not None
    except (ValueError, OverflowError):
        return False
