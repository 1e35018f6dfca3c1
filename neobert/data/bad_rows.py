"""Rows of a task that do not fit: one error reports them, or they are counted and left out."""

from collections.abc import Sequence

from neobert.console import get_logger
from neobert.errors import ConfigError

log = get_logger(__name__)

SHOWN = 5


def report_bad_rows(
    problems: Sequence[str], section: str, rule: str, columns: Sequence[str]
) -> None:
    """Raise ``ConfigError`` with the first of ``problems``; with the rule ``skip``, count them.

    ``section.bad_rows`` is the rule's key, and ``columns`` are the section's keys of columns.
    """
    if not problems:
        return
    key = f"{section}.bad_rows"
    if rule == "skip":
        log.warning("%s=skip: %d rows left out, such as: %s", key, len(problems), problems[0])
        return
    keys = ", ".join(f"{section}.{column}" for column in columns)
    hint = f"mend the rows, choose the columns ({keys}), or leave such rows out with {key}=skip"
    more = len(problems) - SHOWN
    others = [f"and {more} more such rows"] if more > 0 else []
    raise ConfigError(*problems[:SHOWN], *others, hint)
