"""The settings as text: ``--help``, and the rows of docs/configuration.md.

Meanings are read from the docstrings under the fields, so there is one place that states them.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_type_hints

from neobert.config.group_files import group_names, options
from neobert.config.schema import sections
from neobert.config.section import described, joined, section_of

USAGE = """\
python -m neobert.train [group=option …] [section.key=value …] [config_path=FILE]

  --cfg job          show the settings and run nothing (also: hydra, all; --resolve, --package KEY)
  --config-dir DIR   a folder of your own group files (docs/training.md)
  --info             where settings come from (also: defaults, searchpath, plugins)
  -m                 a sweep: several values, key=1,2,3, or sweep=FILE;
                     hydra.launcher.n_jobs=2 runs two jobs at a time
  --hydra-help       Hydra's other flags
  --help             this page

"""


@dataclass(frozen=True, slots=True)
class Key:
    """A setting as its documentation shows it."""

    name: str
    type: str
    default: object
    meaning: str


def help_text() -> str:
    """The page of ``--help``."""
    lines = [USAGE, "Groups\n"]
    for group in group_names():
        lines.append(f"  {group + '=':14}{', '.join(options(group))}\n")
    for section, keys in help_sections():
        lines.append(f"\n{section or 'Top level'}\n")
        for key in keys:
            lines.append(f"  {key.name}: {key.type} = {shown(key.default)}\n")
            lines.append(textwrap.indent(textwrap.fill(key.meaning, 92), " " * 6) + "\n")
    return "".join(lines)


def help_sections() -> Iterator[tuple[str, list[Key]]]:
    """Every section with its keys, in the order of the dataclasses; the top level first."""
    for name, section in sections().items():
        meanings, defaults = field_meanings(section), section()
        yield (
            name,
            [
                Key(joined(name, field), described(kind), getattr(defaults, field), meanings[field])
                for field, kind in get_type_hints(section).items()
                if section_of(kind) is None
            ],
        )


def shown(value: object) -> str:
    """A default as YAML would write it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return value or '""'
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def field_meanings(section: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, on one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(section)))
    body: list[Any] = tree.body[0].body  # type: ignore[attr-defined]
    meanings = {}
    for field, after in pairwise(body):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and is_text and isinstance(field.target, ast.Name):
            meanings[field.target.id] = " ".join(str(after.value.value).split())
    return meanings
