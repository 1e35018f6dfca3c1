"""Between mappings and ``Config``: fill in, refuse, save, load."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from neobert.config.checks import ConfigError
from neobert.config.legacy import Flat, translate
from neobert.config.root import Config
from neobert.config.values import Unfit, convert, described
from neobert.files import write_atomically

Origin = Callable[[str], str]
"""Where a dotted key was set."""


def build_config(
    values: Mapping[str, object],
    origin: Origin = lambda key: "settings",
    known_problems: Sequence[str] = (),
) -> Config:
    """A checked ``Config`` from nested values; what they leave out keeps its default.

    Raises ``ConfigError`` with the ``known_problems``, which were found in reading the values, and
    every unknown key, value of a wrong type, and failed check.
    """
    problems = list(known_problems)
    config = _filled(Config, values, "", problems, origin)
    assert isinstance(config, Config)
    if unknown := [problem for problem in problems if "unknown key" in problem]:
        problems = [*unknown, *(one for one in problems if one not in unknown)]
    problems += config.problems()
    if problems:
        raise ConfigError(*problems)
    return config


def load_config_file(path: str | Path) -> Config:
    """The ``Config`` that a YAML file describes by itself: a run's ``config.yaml``."""
    problems: list[str] = []
    values = read_yaml(path, problems)
    return build_config(nested(values), lambda key: str(path), problems)


def save_config(config: Config, path: str | Path) -> None:
    """Write all of ``config`` as YAML, atomically."""
    write_atomically(Path(path), to_yaml(config))


def to_plain(config: Config) -> dict[str, object]:
    """``config`` as nested dicts."""
    return asdict(config)


def to_yaml(config: Config) -> str:
    """``config`` as YAML, in the order of the dataclasses."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=100)


def read_yaml(path: str | Path, problems: list[str]) -> Flat:
    """A YAML file as dotted keys in today's spelling; contradictions are added to ``problems``.

    Raises ``ConfigError``, with the ``problems`` so far, if it cannot be read.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(*problems, f"config_path={path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(*problems, f"config_path={path}: is not YAML ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(
            *problems,
            f"config_path={path}: must hold sections and keys, not a {type(values).__name__}",
        )
    flat_values = translate(flat(values), str(path), problems)
    if "wandb" in values and isinstance(values["wandb"], dict):
        flat_values.setdefault("wandb.enabled", True)  # documented in the reference
    return flat_values


def flat(values: Mapping[str, object], prefix: str = "") -> Flat:
    """Nested mappings as dotted keys. Free-form mappings and empty sections stay values."""
    found: Flat = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and value and dotted not in free_form():
            found |= flat(value, f"{dotted}.")
        else:
            found[dotted] = value
    return found


def nested(values: Mapping[str, object]) -> dict[str, object]:
    """Dotted keys as nested mappings. A section that is ``null`` is empty."""
    found: dict[str, object] = {}
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        place = found
        for section in sections:
            inner = place.get(section)
            if not isinstance(inner, dict):
                inner = place[section] = {}
            place = inner
        if value is None and isinstance(place.get(key), dict):
            continue
        place[key] = value
    return found


@cache
def field_types() -> dict[str, Any]:
    """Type of every key, by dotted name; sections left out."""
    return dict(_walk(Config, ""))


@cache
def free_form() -> frozenset[str]:
    """Keys whose value is a mapping of the user's own making."""
    return frozenset(key for key, kind in field_types().items() if described(kind) == "mapping")


def nearest(key: str) -> str:
    """ "; did you mean …?", or nothing if no legal key is like ``key``."""
    legal = list(field_types())
    found = get_close_matches(key, legal, n=1, cutoff=0.75)
    last = key.rpartition(".")[2]
    if not found:
        found = [one for one in legal if one.rpartition(".")[2] == last][:1]
    if not found:
        by_last = {one.rpartition(".")[2]: one for one in legal}
        found = [by_last[one] for one in get_close_matches(last, by_last, n=1, cutoff=0.75)]
    return f"; did you mean {found[0]}?" if found else ""


def section_of(kind: Any) -> type | None:
    """The dataclass that a field's type is, or may be."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and is_dataclass(one):
            return one
    return None


def _walk(section: type, prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, kind in get_type_hints(section).items():
        inner = section_of(kind)
        if inner is None:
            found.append((f"{prefix}{name}", kind))
        else:
            found += _walk(inner, f"{prefix}{name}.")
    return found


def _filled(
    section: type, values: Mapping[str, object], prefix: str, problems: list[str], origin: Origin
) -> object:
    """An instance of ``section`` with ``values``; what does not fit is added to ``problems``."""
    kinds = get_type_hints(section)
    known = {field.name for field in fields(section)}
    arguments: dict[str, object] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if key not in known:
            problems += [
                f"{origin(one)}: unknown key {one}{nearest(one)}" for one in _leaves(dotted, value)
            ]
            continue
        inner = section_of(kinds[key])
        if inner is None:
            _convert_into(arguments, key, value, kinds[key], (dotted, problems, origin))
        elif isinstance(value, Mapping):
            arguments[key] = _filled(inner, value, f"{dotted}.", problems, origin)
        elif value is not None:
            problems.append(f"{origin(dotted)}: {dotted}={value}: is a section, not a value")
        elif type(None) in get_args(kinds[key]):
            arguments[key] = None
    return section(**arguments)


def _convert_into(
    arguments: dict[str, object],
    key: str,
    value: object,
    kind: Any,
    where: tuple[str, list[str], Origin],
) -> None:
    dotted, problems, origin = where
    try:
        arguments[key] = convert(value, kind)
    except Unfit:
        shown = "null" if value is None else value
        problems.append(f"{origin(dotted)}: {dotted}={shown}: must be {described(kind)}")


def _leaves(dotted: str, value: object) -> list[str]:
    return list(flat({dotted: value})) if isinstance(value, dict) and value else [dotted]
