"""Settings in plain Python: an attribute is checked when it is assigned."""

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from neobert.errors import ConfigError


class Section:
    """Base of the configuration's dataclasses: refuses unknown attributes and illegal values.

    The constructor takes what it is given, so that all problems are reported together when the
    configuration is used.
    """

    def __setattr__(self, name: str, value: object) -> None:
        """Assign a setting; raises ``ConfigError``, and keeps the old value, if it is wrong."""
        types = _types(type(self))
        if name not in types:
            raise ConfigError(_unknown(self, name))
        before = self.__dict__.get(name)
        is_new = name not in self.__dict__  # within the constructor
        if not is_new and not fits(value, types[name]):
            raise ConfigError(mistyped(self, name, value))
        object.__setattr__(self, name, value)
        if is_new or not hasattr(self, "problems") or type(self).__name__ == "Config":
            return
        problems = [line for line in self.problems() if _is_about(line, name)]
        if problems:
            object.__setattr__(self, name, before)
            raise ConfigError(*problems)


def fits(value: object, kind: Any) -> bool:
    """Whether ``value`` has the type ``kind`` of a field; an integer is a number too."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list | tuple) and all(fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict)
    if kind in (int, float):
        allowed: Any = int if kind is int else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    return isinstance(value, kind)


def mistyped(section: Section, name: str, value: object) -> str:
    """The problem with a value of another type."""
    from neobert.config.schema import described  # it imports the sections

    kind = described(_types(type(section))[name])
    return f"{_key(section, name)}={value!r}: must be {kind}"


def type_problems(section: Section) -> list[str]:
    """The values of ``section``, and of the sections in it, that have another type."""
    problems = []
    for field in fields(section):  # type: ignore[arg-type]
        value = getattr(section, field.name)
        if not fits(value, _types(type(section))[field.name]):
            problems.append(mistyped(section, field.name, value))
        elif isinstance(value, Section):
            problems += type_problems(value)
    return problems


_types = cast(Callable[[type[Section]], dict[str, Any]], cache(get_type_hints))
"""The types of a section's fields."""


def _key(section: Section, name: str) -> str:
    """The dotted key of a setting."""
    from neobert.config.schema import sections  # it imports the sections

    prefixes = (prefix for prefix, kind in sections().items() if kind is type(section))
    prefix = next(prefixes, "")
    return f"{prefix}.{name}" if prefix else name


def _unknown(section: Section, name: str) -> str:
    from neobert.config.schema import nearest  # it imports the sections

    key = _key(section, name)
    return f"unknown key {key}{nearest(key)}"


def _is_about(problem: str, name: str) -> bool:
    """Whether a problem is with the value of ``name`` itself, not with a combination."""
    key, equals, rest = problem.partition("=")
    return bool(equals) and key.rpartition(".")[2] == name and ": must " in rest
