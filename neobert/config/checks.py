"""How settings say what is wrong with them: lists of problems, raised all together."""

from collections.abc import Collection


def require(claim: bool, problem: str) -> list[str]:
    """``problem`` unless the claim holds."""
    return [] if claim else [problem]


def one_of(key: str, value: str | None, allowed: Collection[str]) -> list[str]:
    """A problem unless ``value`` is among ``allowed``."""
    return require(value in allowed, f"{key}={value}: must be one of {', '.join(allowed)}")


def at_least(key: str, value: float | None, low: float) -> list[str]:
    """A problem if ``value`` is below ``low``; ``None`` passes."""
    return require(value is None or value >= low, f"{key}={value}: must be at least {low:g}")


def above(key: str, value: float | None, low: float) -> list[str]:
    """A problem unless ``value`` is greater than ``low``; ``None`` passes."""
    return require(value is None or value > low, f"{key}={value}: must be greater than {low:g}")


def within(key: str, value: float | None, low: float, high: float) -> list[str]:
    """A problem unless ``low <= value <= high``; ``None`` passes."""
    claim = value is None or low <= value <= high
    return require(claim, f"{key}={value}: must be between {low:g} and {high:g}")
