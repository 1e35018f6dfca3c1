"""The arguments of ``python -m neobert.train``, sorted by what they set."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from neobert.config.layers import Layer
from neobert.config.legacy import current_key, translate
from neobert.config.root import TASKS
from neobert.config.schema import Flat, field_types, flatten, is_text, nearest, type_of
from neobert.config.section import as_meant
from neobert.console import get_logger
from neobert.errors import ConfigError

log = get_logger(__name__)

COMMAND_LINE = "command line"

LONGEST = 1000
"""Characters of an override that is shown in full."""


@dataclass(slots=True)
class Request(Layer):
    """The command line: a layer of settings, and what is for Hydra."""

    hydra: list[str] = field(default_factory=list)
    """Overrides of Hydra's own settings."""

    task: list[Override] = field(default_factory=list)
    """All that are not about Hydra itself, as they were given; those of a sweep among them."""


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments as Hydra takes them: its flags first, ``--a.b v`` turned into ``a.b=v``, aloud."""
    flags, overrides = split_flags(arguments)
    return [*chain.from_iterable(flags), *overrides]


def split_flags(arguments: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Hydra's flags, each with its value, and the overrides; ``--a.b v`` becomes ``a.b=v``."""
    known = get_args_parser()._option_string_actions
    flags: list[list[str]] = []
    overrides: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if (flag := known.get(word.partition("=")[0])) is not None:
            left_out = flag.nargs == "?" and not {*waiting[:1]} & {*(flag.choices or ())}
            takes_next = flag.nargs != 0 and "=" not in word and not left_out and waiting
            flags.append([word, waiting.pop(0)] if takes_next else [word])
        elif word.startswith("--") and word != "--":
            overrides.append(_without_dashes(word, waiting))
        else:
            overrides.append(word)
    return flags, overrides


def config_folder(flags: Sequence[Sequence[str]]) -> str | None:
    """The folder of ``--config-dir``; raises ``ConfigError`` for any other flag of Hydra."""
    folder = None
    for words in flags:
        flag, _, folder = "=".join(words).partition("=")
        if flag not in ("--config-dir", "-cd"):
            raise ConfigError(f"{flag}: only python -m neobert.train has this flag")
        if not folder:
            raise ConfigError(f"{flag}: must name a folder")
    return folder


def _without_dashes(word: str, waiting: list[str]) -> str:
    key, equals, value = word.removeprefix("--").partition("=")
    if not equals:
        has_value = waiting and not waiting[0].startswith("--") and "=" not in waiting[0]
        value = waiting.pop(0) if has_value else "true"
    if _is_known(key):  # an unknown key is reported, not accepted
        log.warning("%s is accepted; in Hydra's form it is %s=%s", word, key, value)
    return f"{key}={value}"


def _is_known(key: str) -> bool:
    from neobert.config.group_files import group_names  # it imports this module

    name = key.lstrip("+~").partition("@")[0]
    group = name.partition("/")[0].partition(".")[0]
    return type_of(current_key(name)) is not None or group in (*group_names(), "hydra")


def read_overrides(
    overrides: Sequence[str],
    is_group: Callable[[str], bool],
    problems: list[str],
    multirun: bool = False,
) -> Request:
    """Sort overrides; what cannot be read is added to ``problems``.

    ``is_group`` tells whether a key names a group of files. Several values of a key (``a,b``) are
    a problem unless ``multirun``.
    """
    request, raw = Request(COMMAND_LINE, {}), Flat()
    parser = OverridesParser.create()
    for word in overrides:
        try:
            override = parser.parse_override(word)
            key = override.key_or_group
            if not key or (override.package is not None and not is_group(key)):
                raise ValueError
        except (HydraException, ValueError, RecursionError):  # Python's, of 5,000 digits
            problems.append(unreadable(word))
            continue
        if override.is_sweep_override() and not (multirun and _may_be_swept(key, is_group)):
            problems.append(_not_swept(word, key, multirun))
            continue
        if override.is_hydra_override():
            request.hydra.append(word)
            continue
        request.task.append(override)
        if override.is_sweep_override():
            continue
        if is_group(key) and (override.package or not is_value(key, override.value())):
            request.groups[override.get_key_element().lstrip("+~")] = word
            if key == "task" and override.value() in TASKS:
                raw[key] = override.value()  # a key too, and the command line is strongest
        elif override.is_delete():
            request.deleted.append(key)
        else:
            raw |= _values(key, override, word)
    request.values = translate(raw, COMMAND_LINE, problems)
    return request


def unreadable(word: str) -> str:
    """What is wrong with an override that Hydra's grammar refuses, and how to write it."""
    if len(word) > LONGEST:
        return f"command line: {word[:40]!r}…: cannot be read"
    key, equals, value = word.partition("=")
    if equals and not key.strip():
        return f"command line: {word!r}: has no key; write key=value without spaces around ="
    if "@" in key:
        return f"command line: {word!r}: only a group has a package (@), and this is none"
    if equals and re.fullmatch(r"[+~]*[A-Za-z_]\w*([./]\w+)*", key):
        inner = re.fullmatch(r"\[(.*)\]", value, re.DOTALL)
        parts = [_quoted(part) for part in inner[1].split(",")] if inner else []
        quoted = f"{key}=[{','.join(parts)}]" if inner else f"{key}={quote(value)}"
        return f'command line: {word!r}: a value with such signs takes quotes twice, "{quoted}"'
    hint = f"; a file of settings is config_path={word}" if word.endswith((".yaml", ".yml")) else ""
    return f"command line: {word!r} is not of the form key=value{hint}"


def quote(value: str) -> str:
    """``value`` as one text of Hydra's grammar, whatever its signs."""
    return QuotedString(value, Quote.single).with_quotes()


def pasteable(key: str, value: object) -> str:
    """``key=value`` for a hint, so that a shell and Hydra's grammar take it as it is."""
    text = str(value)
    plain = re.fullmatch(r"[\w./:@+-]+", text)
    return f"{key}={text}" if plain else shlex.quote(f"{key}={quote(text)}")


def _quoted(part: str) -> str:
    return part if re.fullmatch(r"\s*('[^']*'|\"[^\"]*\"|[\w./:+-]+)\s*", part) else quote(part)


def is_value(key: str, value: object) -> bool:
    """Whether ``value`` is one of the setting ``key``, where a group of files has the same name:
    a boolean for ``debug``, a mapping for ``callbacks``."""
    if isinstance(value, dict):
        return True
    try:
        return field_types().get(key) is bool and as_meant(value, bool) is not None
    except ValueError:
        return False


def _may_be_swept(key: str, is_group: Callable[[str], bool]) -> bool:
    known = type_of(current_key(key)) is not None or is_group(key)
    return known and key != "trainer.output_dir"


def _not_swept(word: str, key: str, multirun: bool) -> str:
    if key == "trainer.output_dir":
        return f"command line: {word!r}: each job has a folder of its own below hydra.sweep.dir"
    if multirun:
        return f"command line: unknown key {key}{nearest(key)}"
    value = word.partition("=")[2]
    text = f', or quote it: "{key}={quote(value)}"' if is_text(field_types().get(key)) else ""
    return f"command line: {word!r} names several values; add -m for a sweep{text}"


def _values(key: str, override: Override, word: str) -> Flat:
    """The settings of one override; text keys get what was typed (``1.10``, not ``1.1``)."""
    value = override.value()
    typed = word.partition("=")[2]
    kind: Any = field_types().get(current_key(key))
    if isinstance(value, str | int | float | bool) and is_text(kind):
        return {key: str(value) if isinstance(value, str) else typed.strip()}
    if isinstance(value, list) and is_text(kind):
        return {key: yaml.load(typed, Loader=yaml.BaseLoader)}
    plain = value if isinstance(value, int | float | bool | list | dict | None) else str(value)
    return flatten({key: plain}) if "." in key else {key: plain}
