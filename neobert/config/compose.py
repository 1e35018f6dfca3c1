"""From a command line to a ``Config``: groups by Hydra, then a file, then single settings.

Stronger wins: dataclass < group file < task < experiment < ``config_path`` < command line. Hydra
composes the group files; nothing is typed before :func:`neobert.config.store.build_config`, which
therefore sees all that is wrong at once and knows where it came from.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neobert.config.checks import ConfigError
from neobert.config.legacy import Flat, translate
from neobert.config.root import Config
from neobert.config.store import (
    build_config,
    flat,
    free_form,
    nested,
    read_yaml,
    section_of,
    to_plain,
)
from neobert.console import get_logger

log = get_logger(__name__)

COMMAND_LINE = "command line"
SECTIONS = tuple(one.name for one in fields(Config) if section_of(one.type) is not None)
REFERENCE = "reference"
"""Group option that adds nothing to the dataclass's defaults, which are the reference's."""

SHOWN = 3
"""Settings that a warning names."""

Values = dict[str, object]


@dataclass(slots=True)
class Request:
    """What a command line asks for."""

    groups: dict[str, str] = field(default_factory=dict)
    """Group → option, as in ``optimizer=muonclip``."""

    values: Flat = field(default_factory=dict)
    """Single settings by dotted key."""

    file: Path | None = None
    """``config_path``."""

    problems: list[str] = field(default_factory=list)
    """What is wrong with the words themselves."""


def conf_dir() -> Path:
    """The folder of the group files: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"neobert: conf/ is neither in {package} nor beside it")


def group_names() -> list[str]:
    """The groups of ``conf/``."""
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    """The files of a group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def compose_config(overrides: Sequence[str]) -> Config:
    """The ``Config`` of ``python -m neobert.train <overrides>``.

    Raises ``ConfigError`` with everything that is wrong.
    """
    request = read_overrides(overrides)
    problems = request.problems
    file_values = read_yaml(request.file, problems) if request.file else {}
    groups = _with_groups_of_file(request.groups, file_values)
    layers = {COMMAND_LINE: request.values}
    if request.file:
        layers[str(request.file)] = {key: file_values[key] for key in file_values}
    composed = flat(_composed(groups, problems))
    merged = dict(composed)
    for layer in reversed(layers.values()):
        _put_over(merged, layer)
    layers |= _group_layers(groups)

    def origin(key: str) -> str:
        return next((name for name, layer in layers.items() if _sets(layer, key)), "conf/")

    config = build_config(nested(_resolved(merged, problems)), origin, problems)
    _warn_of_no_effect(config, layers, request)
    return config


def _resolved(values: Flat, problems: list[str]) -> Flat:
    """``values`` with interpolations such as ``run-${seed}`` replaced by what they stand for.

    One that stands for nothing is left out and added to ``problems``.
    """
    found: Flat = {key: one for key, one in values.items() if isinstance(one, str) and "${" in one}
    if not found:
        return values
    given = {key: one for key, one in values.items() if key not in SECTIONS}  # else it is empty
    tree = OmegaConf.create(nested({**flat(to_plain(Config())), **given}))
    resolved = dict(values)
    for key, one in found.items():
        try:
            resolved[key] = OmegaConf.select(tree, key)
        except OmegaConfBaseException as error:
            del resolved[key]
            problems.append(f"{key}={one}: {str(error).splitlines()[0]}")
    return resolved


def read_overrides(overrides: Sequence[str]) -> Request:
    """Sort the words of a command line into groups, settings and the file.

    ``--a.b v`` and ``--a.b=v``, the reference's spelling, are accepted with a hint.
    """
    request = Request()
    raw: Flat = {}
    problems = request.problems
    parser = OverridesParser.create()
    groups = group_names()
    for word in hydra_form(overrides):
        try:
            override = parser.parse_override(word)
        except HydraException:
            problems.append(unreadable(word))
            continue
        key = override.key_or_group
        if override.is_delete():
            problems.append(f"command line: {word!r}: settings cannot be deleted, set them instead")
        elif override.is_sweep_override():
            problems.append(f"command line: {word!r} names several values; add -m for a sweep")
        elif key in groups:
            request.groups[key] = str(override.value())
            if key == "task":  # a root key too, and what the command line says is strongest
                raw[key] = override.value()
        elif key.startswith("hydra"):
            problems.append(f"command line: {word!r}: hydra's own settings are for sweeps (-m)")
        else:
            raw |= flat({key: _plain(override.value())}) if "." in key else {key: override.value()}
    request.values = translate(flat(raw), COMMAND_LINE, problems)
    file = request.values.get("config_path")
    request.file = Path(str(file)) if file not in (None, "null") else None
    return request


def hydra_form(words: Sequence[str]) -> list[str]:
    """Command-line words with the reference's ``--a.b v`` turned into ``a.b=v``, and a hint."""
    found: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            found.append(word.lstrip("+"))
            continue
        key, given, value = word.removeprefix("--").partition("=")
        if not given:
            has_value = waiting and not waiting[0].startswith("--") and "=" not in waiting[0]
            value = waiting.pop(0) if has_value else "true"
        found.append(f"{key}={value}")
        log.warning("%s is accepted; in Hydra's form it is %s=%s", word, key, value)
    return found


def unreadable(word: str) -> str:
    """What is wrong with a word that Hydra's grammar does not take, and how to write it."""
    key, given, value = word.partition("=")
    if given and re.fullmatch(r"[A-Za-z_][\w.]*", key):
        escaped = value.replace("'", r"\'")
        quoted = f"{key}='{escaped}'"
        return f'command line: {word!r}: a value with such signs takes quotes twice, "{quoted}"'
    hint = f"; a file of settings is config_path={word}" if word.endswith((".yaml", ".yml")) else ""
    return f"command line: {word!r} is not of the form key=value{hint}"


def _warn_of_no_effect(config: Config, layers: Mapping[str, Flat], request: Request) -> None:
    """Say what was asked for and is not used: it is legal, but hardly what was meant."""
    optimizer = config.optimizer
    if optimizer.muon_config is not None and optimizer.name != "muonclip":
        log.warning(
            "optimizer.muon_config has no effect: it is for optimizer=muonclip, this is %s",
            optimizer.name,
        )
    file = layers.get(str(request.file), {})
    for group, option in request.groups.items():
        chosen = layers.get(f"conf/{group}/{option}.yaml", {})
        lost = [key for key in chosen if file.get(key) not in (None, chosen[key])]
        lost = [key for key in lost if key not in request.values]
        shown = ", ".join(f"{key}={file[key]}" for key in lost[:SHOWN])
        if lost:
            more = ", …" if lost[SHOWN:] else ""
            log.warning("%s is stronger than %s=%s: %s%s", request.file, group, option, shown, more)


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | bool | list | dict | None) else str(value)


def _composed(groups: Mapping[str, str], problems: Sequence[str]) -> Values:
    """What Hydra makes of the group files.

    Raises ``ConfigError``, with the ``problems`` so far, if an option does not exist: the rest of
    the settings cannot be judged without it.
    """
    unknown = [
        f"command line: {group}={option}: must be one of {', '.join(options(group))}"
        for group, option in groups.items()
        if option not in ("null", *options(group))
    ]
    if unknown:
        raise ConfigError(*problems, *unknown)
    words = [f"{group}={option}" for group, option in groups.items()]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("config", overrides=words)
        plain = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(*problems, " ".join(str(error).split())) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _with_groups_of_file(groups: Mapping[str, str], file_values: Flat) -> dict[str, str]:
    """Groups as asked for, and those that a ``config_path`` file implies.

    A file that names its own corpus gets the reference's defaults for the rest of the section, not
    those of the default group file; one that names its task gets that task's file.
    """
    found = dict(groups)
    if "dataset.name" in file_values or "dataset.path" in file_values:
        found.setdefault("dataset", REFERENCE)
    task = file_values.get("task")
    if task in options("task"):
        found.setdefault("task", str(task))
    return found


def _group_layers(groups: Mapping[str, str]) -> dict[str, Flat]:
    """The chosen group files by name, strongest first, to tell where a key was set."""
    order = sorted(
        groups,
        key=lambda group: (
            ("experiment", "task").index(group) if group in ("experiment", "task") else 2
        ),
    )
    found: dict[str, Flat] = {}
    for group in order:
        file = conf_dir() / group / f"{groups[group]}.yaml"
        if not file.is_file():
            continue
        text = file.read_text()
        values = {
            key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "defaults"
        }
        found[f"conf/{group}/{file.name}"] = flat(
            values if "@package _global_" in text else {group: values}
        )
    return found


def _put_over(merged: Flat, layer: Flat) -> None:
    """Set the keys of ``layer``. An empty section says nothing; a ``null`` setting does.

    A key within a mapping of the user's own making changes that entry of a weaker layer's mapping.
    """
    for key, value in layer.items():
        if value in (None, {}) and key in SECTIONS:
            continue
        mapping = next((one for one in free_form() if key.startswith(f"{one}.")), None)
        if mapping is not None and isinstance(merged.get(mapping), dict):
            path = key.removeprefix(f"{mapping}.").split(".")
            merged[mapping] = _with(merged[mapping], path, value)
            continue
        for below in [one for one in merged if one.startswith(f"{key}.")]:
            del merged[below]
        for above in [one for one in merged if key.startswith(f"{one}.")]:
            del merged[above]  # a null section of a weaker layer
        merged[key] = value


def _with(values: object, path: Sequence[str], value: object) -> dict[str, object]:
    """A copy of the mapping ``values`` with one entry, at any depth, set; the others stay."""
    key, *rest = path
    copy = {str(one): kept for one, kept in values.items()} if isinstance(values, dict) else {}
    return copy | {key: _with(copy.get(key), rest, value) if rest else value}


def _sets(layer: Flat, key: str) -> bool:
    return any(one == key or one.startswith(f"{key}.") for one in layer)
