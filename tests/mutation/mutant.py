"""Take the effect of one configuration key away: what ``make test-parity`` does to the program.

The key is read, checked and saved as ever, but every consumer outside ``neobert.config`` sees its
default. An older key, which is translated into another, is dropped instead. Processes that the
tests start do the same by :mod:`sitecustomize`, which reads ``NEOBERT_MUTATE``.
"""

import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from types import FrameType

VARIABLE = "NEOBERT_MUTATE"
"""The environment variable that names the key."""

CONFIG = "neobert.config"
THROUGH = ("dataclasses", "copy")
"""Modules that read fields on behalf of their callers."""


class Disconnected:
    """A field of a section that consumers cannot set: a data descriptor in its place."""

    def __init__(self, field: "Field[typing.Any]", sections: set[str]) -> None:
        self.name = field.name
        self.field = field
        self.sections = sections
        """Modules of ``neobert.config`` that define sections."""

    def default(self) -> object:
        """What the key is where nobody sets it."""
        if self.field.default_factory is not MISSING:
            return self.field.default_factory()
        return self.field.default

    def __get__(self, section: object, owner: type | None = None) -> object:
        if section is None or consumes(sys._getframe(1), self.sections):
            return self.default()
        return section.__dict__[self.name]

    def __set__(self, section: object, value: object) -> None:
        section.__dict__[self.name] = value


def consumes(frame: FrameType | None, sections: set[str]) -> bool:
    """Whether ``frame`` reads a setting to act on it, itself or through a method of a section.

    The tests and the libraries do not; nor do the checks, the composing and the saving.
    """
    while frame is not None:
        module = module_of(frame)
        if module in sections:
            if frame.f_code.co_name == "problems":
                return False
        elif module not in THROUGH:
            return module.startswith("neobert.") and not module.startswith(CONFIG)
        frame = frame.f_back
    return False


def module_of(frame: FrameType) -> str:
    """The module whose code runs, also where it was started by ``python -m``."""
    name = frame.f_globals.get("__name__", "")
    spec = frame.f_globals.get("__spec__")
    return spec.name if name == "__main__" and spec is not None else name


def sections_of(cls: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """The dataclasses of a configuration by the prefix of their keys."""
    yield prefix, cls
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        for kind in (hints[field.name], *typing.get_args(hints[field.name])):
            if isinstance(kind, type) and is_dataclass(kind):
                yield from sections_of(kind, f"{prefix}{field.name}.")


def install(key: str) -> None:
    """Take the effect of ``key`` away in this process, before anything else imports its config."""
    from neobert.config import compose, layers, legacy
    from neobert.config.root import Config

    if key in legacy.RENAMED:
        translate = legacy.translate
        for name, module in tuple(sys.modules.items()):
            if name.startswith("neobert.") and getattr(module, "translate", None) is translate:
                module.translate = without(key, translate)  # type: ignore[attr-defined]
        return
    if key == "config_path":
        compose.compose_config = without_word(key, compose.compose_config)
        return
    layers.FOLLOWERS.pop(key, None)  # what composing itself does with it
    sections = dict(sections_of(Config))
    prefix, _, name = key.rpartition(".")
    section = sections[f"{prefix}." if prefix else ""]
    modules = {cls.__module__ for cls in sections.values()}
    (field,) = (field for field in fields(section) if field.name == name)
    setattr(section, name, Disconnected(field, modules))


Translate = Callable[..., dict[str, object]]


def without(key: str, translate: Translate) -> Translate:
    """``translate`` of :mod:`neobert.config.legacy`, deaf to ``key``."""

    def deaf(values: dict[str, object], *rest: object) -> dict[str, object]:
        return translate({name: value for name, value in values.items() if name != key}, *rest)

    return deaf


Compose = Callable[..., typing.Any]


def without_word(key: str, compose: Compose) -> Compose:
    """``compose_config``, deaf to ``key`` on the command line."""

    def deaf(words: list[str], *rest: object, **settings: object) -> object:
        return compose(
            [word for word in words if not word.startswith(f"{key}=")], *rest, **settings
        )

    return deaf
