"""What settings must be: limits, which stand in the types of their fields, and problems.

A problem is one line; all of them are raised together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True, slots=True)
class Limit:
    """What a setting must be beside its type: ``Annotated[int, at_least(1)]``."""

    must: str
    """Continues ``key=value: must``."""

    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def one_of(*allowed: str) -> Limit:
    """The limit of a choice."""
    return Limit(f"be one of {', '.join(allowed)}", lambda value: value in allowed, allowed)


def at_least(low: float) -> Limit:
    """The limit ``value >= low``."""
    return Limit(f"be at least {low:g}", lambda value: value >= low)


def above(low: float) -> Limit:
    """The limit ``value > low``."""
    return Limit(f"be greater than {low:g}", lambda value: value > low)


def within(low: float, high: float) -> Limit:
    """The limit ``low <= value <= high``."""
    return Limit(f"be between {low:g} and {high:g}", lambda value: low <= value <= high)


Count = Annotated[int, at_least(0)]
Positive = Annotated[int, at_least(1)]
NotNegative = Annotated[float, at_least(0)]
Above0 = Annotated[float, above(0)]
Share = Annotated[float, within(0, 1)]
Dropout = Annotated[float, within(0, 0.999)]
Percentage = Annotated[float, within(0, 100)]
Column = Annotated[str, Limit("name a column", bool)]


def require(claim: bool, problem: str) -> list[str]:
    """``problem`` unless the claim holds."""
    return [] if claim else [problem]


def broken(key: str, value: object, *limits: Limit) -> list[str]:
    """A problem for each of the ``limits`` that ``value`` does not keep."""
    setting = key if value == "" else f"{key}={value}"
    return [f"{setting}: must {limit.must}" for limit in limits if not limit.holds(value)]
