"""What people mean by a value, before OmegaConf checks its type.

``no``, ``1e-4``, ``1e3`` and quoted numbers mean what they mean elsewhere; text keys keep what was
written (``dataset.config=1.10``).
"""

import math
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from neobert.config.schema import kinds_of

LARGEST = 2**63
"""No integer setting is that large: PyTorch's are of 64 bits."""

WORDS = {"true": True, "yes": True, "on": True, "1": True}
WORDS |= {"false": False, "no": False, "off": False, "0": False}


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
    if get_origin(kind) is dict or is_dataclass(kind):
        return _mapping(value, kind)
    if get_origin(kind) is list:
        parts = [part for part in value.split(",") if part] if isinstance(value, str) else value
        (inner,) = get_args(kind)
        return [as_meant(one, inner) for one in parts] if isinstance(parts, list) else parts
    return _scalar(value, kinds)


def _mapping(value: object, kind: Any) -> object:
    if not isinstance(value, dict):
        raise ValueError
    types = get_type_hints(kind) if is_dataclass(kind) else {}
    inner = Any if types else get_args(kind)[1]
    return {str(key): as_meant(one, types.get(key, inner)) for key, one in value.items()}


def _scalar(value: object, kinds: tuple[Any, ...]) -> object:
    numeric = bool({int, float} & set(kinds))
    if str in kinds and not numeric:
        return _text(value)
    if bool in kinds:
        return _boolean(value)
    return _number(value, kinds) if numeric else value


def _text(value: object) -> str:
    if isinstance(value, dict | list) or "\0" in str(value):
        raise ValueError
    return str(value).lower() if isinstance(value, bool) else str(value)


def _boolean(value: object) -> bool:
    if str(value).lower() not in WORDS:
        raise ValueError
    return WORDS[str(value).lower()]


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
    if int in kinds and number == int(number):
        return int(number)
    return number
