"""What people mean by a value, before OmegaConf checks its type.

``no``, ``1e-4``, ``1e3`` and quoted numbers mean what they mean elsewhere; text keys keep what was
written (``dataset.config=1.10``).
"""

import math
from typing import Any, get_args, get_origin

from neobert.config.section import kinds_of

LARGEST = 2**63
"""No integer setting is that large: PyTorch's are of 64 bits."""

BOOLEANS = ("true", "yes", "on", "1", "false", "no", "off", "0")


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
