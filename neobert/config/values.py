"""From what YAML and the command line give to the types that the dataclasses declare.

``no``, ``1e-4``, ``1e3`` and quoted numbers mean what people mean; anything else is a problem that
says which type is wanted.
"""

import math
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin

YES = ("true", "yes", "on", "1")
NO = ("false", "no", "off", "0")


class Unfit(Exception):  # noqa: N818 - becomes a problem of ConfigError
    """A value that the type does not take."""


def convert(value: object, kind: Any) -> object:
    """``value`` as ``kind``, a type of a dataclass field. Raises ``Unfit`` with what is wanted."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(value, get_args(kind))
    if origin is list:
        return _list(value, get_args(kind)[0])
    if origin is dict:
        return _dict(value, get_args(kind)[1])
    if kind is Any:
        return value
    return SCALARS[kind](value)


def described(kind: Any) -> str:
    """Name of a type as a user reads it: ``integer or null``."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(described(one) for one in get_args(kind))
    if origin is list:
        return f"list of {described(get_args(kind)[0])}s"
    if origin is dict:
        return "mapping"
    return NAMES.get(kind, "section")


def _union(value: object, kinds: tuple[Any, ...]) -> object:
    if type(None) in kinds and (value is None or value in ("null", "None", "none")):
        return None
    # Numbers before text: "2" is a number of devices, "auto" is not.
    for kind in sorted(kinds, key=lambda one: one is str):
        if kind is type(None):
            continue
        try:
            return convert(value, kind)
        except Unfit:
            continue
    raise Unfit


def _list(value: object, kind: Any) -> list[object]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part]
    if not isinstance(value, list | tuple):
        raise Unfit
    return [convert(one, kind) for one in value]


def _dict(value: object, kind: Any) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Unfit
    return {str(key): convert(one, kind) for key, one in value.items()}


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word in YES:
        return True
    if word in NO:
        return False
    raise Unfit


def _int(value: object) -> int:
    if isinstance(value, bool):
        raise Unfit
    if isinstance(value, int):
        return value
    number = _float(value)
    if number != int(number):
        raise Unfit
    return int(number)


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unfit
    try:
        number = float(value)
    except ValueError:
        raise Unfit from None
    if not math.isfinite(number):
        raise Unfit
    return number


def _str(value: object) -> str:
    if value is None or isinstance(value, dict | list):
        raise Unfit
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


SCALARS: dict[Any, Callable[[object], object]] = {bool: _bool, int: _int, float: _float, str: _str}
NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    type(None): "null",
    Any: "anything",
}
