"""From layers of settings, weakest first, to a checked ``Config``.

A layer is a file or the command line. Stronger layers win, between a key and its rival too: a
``warmup_steps`` of the command line replaces the ``warmup_percent`` of a group file.
"""

import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from neobert.config.legacy import NULLS, translate
from neobert.config.root import Config
from neobert.config.schema import (
    Flat,
    default_of,
    entries_of,
    field_types,
    flatten,
    nearest,
    sections,
    setting_of,
    type_of,
)
from neobert.config.section import Section, as_meant, described, section_of
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.files import first_line

log = get_logger(__name__)

RIVALS = {
    "scheduler.warmup_steps": "scheduler.warmup_percent",
    "scheduler.decay_steps": "scheduler.decay_percent",
    "tokenizer.name": "tokenizer.path tokenizer.train_vocab_size",
    "tokenizer.path": "tokenizer.train_vocab_size",
    "tokenizer.train_vocab_size": "tokenizer.path",
    "dataset.name": "dataset.path",
    "trainer.num_train_epochs": "trainer.max_steps",
    "glue.pretrained_checkpoint_dir": "glue.pretrained_model_path glue.transfer_from_task",
    "glue.pretrained_model_path": "glue.pretrained_checkpoint_dir",
    "glue.transfer_from_task": "glue.pretrained_checkpoint_dir",
    "contrastive.pretrained_checkpoint_dir": "contrastive.pretrained_model_path",
    "contrastive.pretrained_model_path": "contrastive.pretrained_checkpoint_dir",
    "deepspeed.config_file": "deepspeed.offload_optimizer deepspeed.offload_parameters",
}
"""Key -> the keys of weaker layers that it replaces: they are unset."""

FOLLOWERS = {
    "model.classifier_init_range": "glue.classifier_init_range",
    "wandb.log_interval": "trainer.logging_steps",
}
"""Key -> the key that takes its value wherever only the first is set."""

MOST_INTERPOLATIONS = 50
"""``${…}`` in one value; real ones have a few."""

LONGEST_SHOWN = 500
"""Characters of a wrong value that are shown in full."""

MOST_SHOWN = 20
"""Unknown keys that are listed; finding the nearest key takes a millisecond each."""


@dataclass(slots=True)
class Layer:
    """Settings of one origin, by dotted key in today's spelling."""

    origin: str
    values: Flat
    by_user: bool = True
    """Whether the user wrote them, as opposed to the package's own files."""

    deleted: list[str] = field(default_factory=list)
    """Keys or sections that fall back to their default (``~key``)."""

    groups: dict[str, str] = field(default_factory=dict)
    """Overrides that choose group files, by group (and package)."""

    @classmethod
    def read(
        cls, origin: str, values: Mapping[Any, object], problems: list[str], by_user: bool = True
    ) -> "Layer":
        """The layer of a YAML file; contradictions in it are added to ``problems``."""
        flat = translate(flatten(values), origin, problems)
        if by_user and isinstance(values.get("wandb"), dict):
            flat.setdefault("wandb.enabled", True)  # as the configuration reference has it
        return cls(origin, flat, by_user)


class Merged:
    """The settings of all layers, weakest first, in OmegaConf's structured config.

    Interpolations are kept.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.tree: DictConfig = OmegaConf.structured(Config)
        self.layers: dict[str, Layer] = {}
        """The layer that each key was set by."""
        self._wrong: dict[str, str] = {}
        """The problem with the value of a key, until a stronger layer sets it."""
        self._unknown: dict[str, str] = {}
        """Where each unknown key was set."""
        for layer in layers:
            self._add(layer)

    def origin(self, key: str) -> str:
        """Where ``key`` was set."""
        layer = self.layers.get(setting_of(key))
        return layer.origin if layer else "settings"

    def set_by_user(self) -> list[str]:
        """Keys that the user set, in contrast to those of the package's own files.

        Those of a complete file, such as a run's ``config.yaml``, do not count: it sets them all.
        """
        return [
            key
            for key, layer in self.layers.items()
            if layer.by_user and len(layer.values) < len(field_types()) / 2
        ]

    def problems(self, others: Sequence[str] = ()) -> list[str]:
        """Unknown keys, ``others``, and values that do not fit their types."""
        unknown = islice(self._unknown.items(), MOST_SHOWN)
        problems = [f"{origin}: unknown key {_shown(key)}{nearest(key)}" for key, origin in unknown]
        if (more := len(self._unknown) - MOST_SHOWN) > 0:
            problems.append(f"… and {more:,} more unknown keys")
        problems += others
        return problems + [f"{self.origin(key)}: {text}" for key, text in self._wrong.items()]

    def value(self, key: str) -> object:
        """The value of a setting; an interpolation as it is."""
        section, _, name = key.rpartition(".")
        owner: Any = OmegaConf.select(self.tree, section) if section else self.tree
        return None if owner is None else owner._get_node(name)._value()

    def imply(self, key: str, value: object, layer: Layer) -> None:
        """Set a key to what follows from another key of ``layer``."""
        self._put(key, value, Layer(layer.origin, {}, by_user=False))

    def _add(self, layer: Layer) -> None:
        for key in layer.deleted:
            self._delete(key, layer.origin)
        for key, value in layer.values.items():
            rivals = "" if value in (None, "", False) else RIVALS.get(key, "")
            for rival in rivals.split():
                unset = NULLS.get(rival, default_of(rival))
                if rival not in layer.values and self.value(rival) != unset:
                    self.imply(rival, unset, layer)
        for key, value in layer.values.items():
            self._put(key, value, layer)
        # Of the package's own layers only the schema has these keys: it sets all to their defaults.
        for key, follower in FOLLOWERS.items() if layer.by_user else ():
            if key in layer.values and follower not in layer.values:
                log.warning("%s: %s sets %s too, unless that is set", layer.origin, key, follower)
                self.imply(follower, layer.values[key], layer)

    def _delete(self, key: str, origin: str) -> None:
        owner, _, name = key.rpartition(".")
        if key in field_types() or key in sections():
            self._wrong, self.layers = _outside(key, self._wrong), _outside(key, self.layers)
            OmegaConf.update(self.tree, key, default_of(key), merge=False)
        elif OmegaConf.is_dict(mapping := OmegaConf.select(self.tree, owner)) and type_of(key):
            mapping.pop(name, None)
        else:
            self._unknown[key] = f"{origin}: ~{key}"

    def _put(self, key: str, value: object, layer: Layer) -> None:
        """Set a key. An empty section says nothing; ``null`` for an optional section does."""
        if key in sections() and value in (None, {}) and key != "optimizer.muon_config":
            return
        if type_of(key) is None:
            self._unknown[key] = layer.origin
            return
        self._wrong = _outside(key, self._wrong)
        self.layers = _outside(key, self.layers) if key in sections() else self.layers
        self.layers[setting_of(key)] = layer
        section = key.rpartition(".")[0]
        if section in sections() and OmegaConf.select(self.tree, section) is None:
            OmegaConf.update(self.tree, section, sections()[section])
        entry = entries_of(type_of(key))
        if entry is not None and isinstance(value, list):
            OmegaConf.update(self.tree, key, [entry] * len(value), merge=False)
            for inner, setting in flatten(dict(enumerate(value)), key).items():
                self._put(inner, setting, layer)
        elif problem := _problem_of_assigning(self.tree, key, value):
            self._wrong[key] = problem


def _outside(key: str, records: dict[str, Any]) -> dict[str, Any]:
    """The records of other keys than ``key`` and those in it."""
    return {known: one for known, one in records.items() if not f"{known}.".startswith(f"{key}.")}


def _shown(key: str) -> str:
    return re.sub(r"\.(\d+)", r"[\1]", key)


def _problem_of_assigning(tree: DictConfig, key: str, value: object) -> str | None:
    """Set ``key`` in ``tree``; say what keeps the value from being one of its type."""
    kind, section = type_of(key), section_of(type_of(key))
    if section is not None and not (value == {} or (value is None and key in sections())):
        is_what = (
            "is a section, not a value" if key in sections() else "must be a mapping of settings"
        )
        return f"{_shown(key)}={value}: {is_what}"
    if str(value).count("${") > MOST_INTERPOLATIONS:  # OmegaConf takes time and stack for each
        return f"{_shown(key)}: has more than {MOST_INTERPOLATIONS} interpolations"
    try:
        meant = section if section is not None and value == {} else as_meant(value, kind)
        OmegaConf.update(tree, key, meant, merge=False)
    except (OmegaConfBaseException, ValueError, OverflowError):
        owner = key.rpartition(".")[0]
        if owner and OmegaConf.select(tree, owner) is None:
            return f"unknown key {key}; {setting_of(key)} has no such entry"
        shown = "null" if value is None else str(value)
        shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[:40]}…"
        return f"{_shown(key)}={shown}: must be {described(kind)}"
    return None


def build(
    tree: DictConfig, layers: Mapping[str, Layer], problems: list[str], hydra_later: bool = False
) -> Config:
    """The ``Config`` of a typed tree, interpolations resolved, with its checks.

    Raises ``ConfigError`` with the ``problems`` so far and what fails here. ``hydra_later``:
    ``${hydra:…}`` is not known yet; keys that need it are checked when it is.
    """
    tree = copy.deepcopy(tree)
    with open_dict(tree):
        tree.pop("hydra", None)
    values: dict[Any, Any] = OmegaConf.to_container(tree, resolve=False)  # type: ignore[assignment]
    for key, raw in flatten(values).items():
        try:
            value: Any = OmegaConf.select(tree, key) if "${" in str(raw) else None
            if OmegaConf.is_config(value):
                OmegaConf.resolve(value)
        except (OmegaConfBaseException, ValueError, RecursionError) as error:
            OmegaConf.update(tree, key, default_of(key), merge=False)
            if not (hydra_later and "${hydra:" in str(raw)):
                origin = f"{layers[key].origin}: " if key in layers else ""
                problems.append(f"{origin}{key}={raw}: {first_line(error)}")
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    _expand_home(config)
    wrong = [f"{_origin_of(problem, layers)}{problem}" for problem in config.problems()]
    if problems := [*problems, *wrong]:
        raise ConfigError(*problems)
    return config


def _origin_of(problem: str, layers: Mapping[str, Layer]) -> str:
    """ "FILE: " for a value outside its limits; those of several keys have several origins."""
    match = re.match(r"([\w.\[\]]+)(=.*)?: must ", problem, re.DOTALL)
    key = setting_of(re.sub(r"\[(\d+)\]", r".\1", match[1])) if match else ""
    return f"{layers[key].origin}: " if key in layers else ""


def _expand_home(section: Section) -> None:
    for name, value in vars(section).items():
        if isinstance(value, Section):
            _expand_home(value)
        elif expanded(value) != value:
            setattr(section, name, expanded(value))
        for entry in value.values() if isinstance(value, dict) else ():
            if isinstance(entry, dict) and "path" in entry:
                entry["path"] = expanded(entry["path"])


def expanded(value: Any) -> Any:
    """A text with the home directory for ``~`` at its beginning; other values as they are."""
    # os.path leaves ~somebody alone where there is no such user; pathlib raises.
    return os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111
