"""Settings in plain Python: an attribute is checked when it is assigned."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from neobert.errors import ConfigError

NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    type(None): "null",
    Any: "anything",
}


class Section:
    """Base of the configuration's dataclasses: refuses unknown attributes and illegal values.

    The constructor takes what it is given, so that all problems are reported together when the
    configuration is used.
    """

    def __setattr__(self, name: str, value: object) -> None:
        """Assign a setting; raises ``ConfigError``, and keeps the old value, if it is wrong."""
        types = types_of(type(self))
        if name not in types:
            raise ConfigError(_unknown(self, name))
        before = self.__dict__.get(name)
        is_new = name not in self.__dict__  # within the constructor
        if not is_new and not fits(value, types[name]):
            raise ConfigError(mistyped(self, name, value))
        object.__setattr__(self, name, value)
        if is_new or type(self).__name__ == "Config":
            return
        problems = [line for line in self.problems() if _is_about(line, name)]
        if problems:
            object.__setattr__(self, name, before)
            raise ConfigError(*problems)

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        return []


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
    if get_origin(kind) is list:
        return f"list of {described(get_args(kind)[0])}s"
    return "mapping" if get_origin(kind) is dict else NAMES.get(kind, "section")


def fits(value: object, kind: Any) -> bool:
    """Whether ``value`` has the type ``kind`` of a field; an integer is a number too."""
    if kind is Any:
        return True
    if len(kinds_of(kind)) > 1:
        return any(fits(value, member) for member in kinds_of(kind))
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        return isinstance(value, list | tuple) and all(fits(entry, inner) for entry in value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    allowed = (int, float) if kind is float else get_origin(kind) or kind
    return isinstance(value, allowed)


def mistyped(section: Section, name: str, value: object) -> str:
    """The problem with a value of another type."""
    kind = described(types_of(type(section))[name])
    return f"{_key(section, name)}={value!r}: must be {kind}"


def type_problems(section: Section) -> list[str]:
    """The values of ``section``, and of the sections in it, that have another type."""
    problems = []
    for field in fields(section):  # type: ignore[arg-type]
        value = getattr(section, field.name)
        if not fits(value, types_of(type(section))[field.name]):
            problems.append(mistyped(section, field.name, value))
        elif isinstance(value, Section):
            problems += type_problems(value)
    return problems


types_of = cast(Callable[[type], dict[str, Any]], cache(get_type_hints))
"""The types of a section's fields."""


def _key(section: Section, name: str) -> str:
    """The dotted key of a setting."""
    from neobert.config.schema import joined, sections  # it imports the sections

    keys = (key for key, kind in sections().items() if kind is type(section))
    return joined(next(keys, ""), name)


def _unknown(section: Section, name: str) -> str:
    from neobert.config.schema import nearest  # it imports the sections

    key = _key(section, name)
    return f"unknown key {key}{nearest(key)}"


def _is_about(problem: str, name: str) -> bool:
    """Whether a problem is with the value of ``name`` itself, not with a combination."""
    key, equals, rest = problem.partition("=")
    return bool(equals) and key.rpartition(".")[2] == name and ": must " in rest
