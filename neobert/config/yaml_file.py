"""YAML files of settings: bounded in size and depth, no key twice, text as it was written."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from neobert.config.legacy import current_key
from neobert.config.schema import field_types, is_text
from neobert.errors import ConfigError
from neobert.files import first_line, read_text, reading

LARGEST, DEEPEST, MOST_VALUES = 2**20, 50, 50_000
"""Bytes, levels and (aliases counted as often as they stand) values of a file that is read."""

TOO_DEEP = f"it is nested deeper than {DEEPEST} levels"

NULL, TEXT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:str"


def read_settings(path: Path, key: str = "config_path", section: str = "") -> dict[Any, object]:
    """The values of a YAML file, nested as in the file; ``section``: where they belong.

    Raises ``ConfigError`` in the name of ``key`` if the file cannot be read, is no mapping, or is
    larger or deeper than any settings are.
    """
    with reading(path, key):
        try:
            values = _parsed(read_text(path, LARGEST), section)
        except yaml.MarkedYAMLError as error:
            raise ValueError(syntax_problem(error)) from error
        except RecursionError as error:  # in the parser, before the depth is known
            raise ValueError(TOO_DEEP) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ConfigError(f"{key}={path}: must hold keys and values, not a {kind}")
    return values


def syntax_problem(error: yaml.YAMLError) -> str:
    """ "line N: …": what the parser cannot read, without the lines of its own message."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return first_line(error)
    line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
    return f"{line}{error.problem}"


def _parsed(text: str, section: str) -> object:
    loader = get_yaml_loader()(text)
    node = loader.get_single_node()
    if node is None:
        return None
    _keep_text(node, f"{section}." if section else "", [0], 0)
    return loader.construct_document(node)


def _keep_text(node: yaml.Node, prefix: str, count: list[int], depth: int) -> None:
    """Mark values of text keys as text, so that ``1.10`` and ``yes`` stay; check the size."""
    count[0] += 1
    if depth > DEEPEST:
        raise ValueError(TOO_DEEP)
    if count[0] > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES:,} values")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _keep_text(value, f"{prefix}{key.value}.", count, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _keep_text(value, prefix, count, depth + 1)
    elif node.tag != NULL and is_text(field_types().get(current_key(prefix.removesuffix(".")))):
        node.tag = TEXT
