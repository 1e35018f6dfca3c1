"""From layers of settings, weakest first, to a checked ``Config``.

A layer is a file or the command line. Stronger layers win, between a key and its rival too: a
``warmup_steps`` of the command line replaces the ``warmup_percent`` of a group file.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from neobert.config.checks import require
from neobert.config.legacy import translate
from neobert.config.root import Config
from neobert.config.schema import (
    Flat,
    default_of,
    entries_of,
    entry_of,
    field_types,
    flatten,
    mapping_of,
    nearest,
    parents,
    sections,
)
from neobert.config.section import described
from neobert.config.values import as_meant
from neobert.console import get_logger
from neobert.files import first_line

log = get_logger(__name__)

RIVALS: dict[str, Flat] = {
    "scheduler.warmup_steps": {"scheduler.warmup_percent": None},
    "scheduler.decay_steps": {"scheduler.decay_percent": None},
    "tokenizer.name": {"tokenizer.path": None, "tokenizer.train_vocab_size": None},
    "tokenizer.path": {"tokenizer.train_vocab_size": None},
    "tokenizer.train_vocab_size": {"tokenizer.path": None},
    "dataset.name": {"dataset.path": ""},
    "trainer.num_train_epochs": {"trainer.max_steps": -1},
    "glue.pretrained_checkpoint_dir": {
        "glue.pretrained_model_path": None,
        "glue.transfer_from_task": False,
    },
    "glue.pretrained_model_path": {"glue.pretrained_checkpoint_dir": None},
    "glue.transfer_from_task": {"glue.pretrained_checkpoint_dir": None},
    "contrastive.pretrained_checkpoint_dir": {"contrastive.pretrained_model_path": None},
    "contrastive.pretrained_model_path": {"contrastive.pretrained_checkpoint_dir": None},
    "deepspeed.config_file": {
        "deepspeed.offload_optimizer": False,
        "deepspeed.offload_parameters": False,
    },
}
"""Key -> the rivals that it replaces if they come from a weaker layer, and their value then."""

FOLLOWERS = {"model.classifier_init_range": "glue.classifier_init_range"}
"""Key -> the key that takes its value wherever only the first is set."""

PATHS = (
    "accelerate_config_file",
    "config_path",
    "mteb_model",
    "model.init_from",
    "model.name",
    "dataset.path",
    "dataset.cache_dir",
    "dataset.pre_tokenize_output",
    "tokenizer.name",
    "tokenizer.path",
    "trainer.output_dir",
    "trainer.resume_from_checkpoint",
    "trainer.branch_from",
    "wandb.dir",
    "glue.pretrained_model_path",
    "glue.pretrained_checkpoint_dir",
    "glue.transfer_dir",
    "contrastive.pretrained_checkpoint_dir",
    "contrastive.pretrained_model_path",
    "contrastive.pretraining_dataset",
    "contrastive.sources_dir",
    "contrastive.eval_sts",
    "deepspeed.config_file",
)
"""Keys that may name a file or folder, in which ``~`` is the home directory."""


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

    deleted: Sequence[str] = ()
    """Keys or sections that fall back to their default (``~key``)."""

    @classmethod
    def read(
        cls, origin: str, values: Mapping[Any, object], problems: list[str], by_user: bool = True
    ) -> "Layer":
        """The layer of a YAML file; contradictions in it are added to ``problems``."""
        flat = translate(flatten(values), origin, problems)
        if by_user and isinstance(values.get("wandb"), dict):
            flat.setdefault("wandb.enabled", True)  # as the configuration reference has it
        return cls(origin, flat, by_user)


@dataclass(slots=True)
class Merged:
    """The outcome of all layers."""

    values: Flat = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    """The layer that each key of ``values`` comes from."""

    def origin(self, key: str) -> str:
        """Where ``key`` was set."""
        layer = self.layers.get(key)
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


def merge(layers: Sequence[Layer], problems: list[str]) -> Merged:
    """The settings of all layers, weakest first."""
    merged = Merged()
    for layer in layers:
        for key in layer.deleted:
            _delete(merged, key, problems)
        for key in layer.values:
            _replace_rivals(merged, key, layer)
        for key, value in layer.values.items():
            _put(merged, key, value, layer)
        for key, follower in FOLLOWERS.items():
            if key in layer.values and follower not in layer.values:
                _put(merged, follower, layer.values[key], Layer(layer.origin, {}, False))
    return merged


def _replace_rivals(merged: Merged, key: str, layer: Layer) -> None:
    if layer.values[key] in (None, "", False):
        return
    for rival, unset in RIVALS.get(key, {}).items():
        if rival not in layer.values and (
            merged.values.get(rival, unset) != unset or rival == "trainer.max_steps"
        ):
            merged.values[rival], merged.layers[rival] = unset, Layer(layer.origin, {}, False)


def _delete(merged: Merged, key: str, problems: list[str]) -> None:
    problems += require(
        key in field_types() or key in sections() or mapping_of(key) is not None,
        f"command line: ~{key}: unknown key {key}{nearest(key)}",
    )
    _forget(
        merged, [known for known in merged.values if known == key or known.startswith(f"{key}.")]
    )


def _forget(merged: Merged, keys: Sequence[str]) -> None:
    for key in keys:
        del merged.values[key], merged.layers[key]


def _put(merged: Merged, key: str, value: object, layer: Layer) -> None:
    """Set a key. An empty section says nothing; ``null`` for an optional section does.

    An entry of a free-form mapping changes that entry of a weaker layer's mapping.
    """
    if key in sections() and value in (None, {}) and key != "optimizer.muon_config":
        return
    mapping = mapping_of(key)
    if mapping is not None:
        path = key.removeprefix(f"{mapping}.").split(".")
        key, value = mapping, _with(merged.values.get(mapping), path, value)
    if (entry := entry_of(key)) is not None:
        name, number, path = entry
        entries = merged.values.get(name)
        if isinstance(entries, list) and isinstance(dict(enumerate(entries)).get(number), dict):
            changed = _with(entries[number], path, value)
            key, value = name, [*entries[:number], changed, *entries[number + 1 :]]
    if key in sections():
        _forget(merged, [inner for inner in merged.values if inner.startswith(f"{key}.")])
    _forget(merged, [parent for parent in parents(key) if parent in merged.values])
    merged.values[key], merged.layers[key] = value, layer


def _with(values: object, path: Sequence[str], value: object) -> dict[str, object]:
    """A copy of the mapping ``values`` with one entry, at any depth, set; the others stay."""
    key, *rest = path
    copied = (
        {str(name): entry for name, entry in values.items()} if isinstance(values, dict) else {}
    )
    return copied | {key: _with(copied.get(key), rest, value) if rest else value}


def typed(merged: Merged, problems: list[str]) -> DictConfig:
    """``merged`` as OmegaConf's structured config; what does not fit is added to ``problems``.

    Interpolations are kept; unknown keys come first among the problems.
    """
    tree = OmegaConf.structured(Config)
    unknown = []
    for key, value in merged.values.items():
        kind = field_types().get(key)
        if key in sections():
            wrong = _assign_section(tree, key, value)
        elif kind is not None:
            section = key.rpartition(".")[0]
            if section and OmegaConf.select(tree, section) is None:
                _assign_section(tree, section, {})
            wrong = _assign(tree, key, value, key, kind)
        else:
            unknown.append(key)
            continue
        problems += [f"{merged.origin(key)}: {problem}" for problem in wrong]
    shown = [
        f"{merged.origin(key)}: unknown key {key}{nearest(key)}" for key in unknown[:MOST_SHOWN]
    ]
    if unknown[MOST_SHOWN:]:
        shown.append(f"… and {len(unknown) - MOST_SHOWN:,} more unknown keys")
    problems[:0] = shown
    return tree


def _assign_section(tree: DictConfig, key: str, value: object) -> list[str]:
    """Reset a section, or leave an optional one out; the problem with any other value."""
    if value not in (None, {}):
        return [f"{key}={value}: is a section, not a value"]
    OmegaConf.update(tree, key, None if value is None else sections()[key], merge=False)
    return []


def _assign(tree: DictConfig, name: str, value: object, key: str, kind: Any) -> list[str]:
    """Set ``name`` in ``tree`` to a value of type ``kind``; the problems with it, as ``key``."""
    if (entry_type := entries_of(kind)) is not None and isinstance(value, list):
        entries = [OmegaConf.structured(entry_type) for _ in value]
        problems = []
        for number, (entry, settings) in enumerate(zip(entries, value, strict=True)):
            problems += _assign_entry(entry, settings, f"{key}[{number}]", entry_type)
        OmegaConf.update(tree, name, entries, merge=False)
        return problems
    if str(value).count("${") > MOST_INTERPOLATIONS:  # OmegaConf takes time and stack for each
        return [f"{key}: has more than {MOST_INTERPOLATIONS} interpolations"]
    try:
        OmegaConf.update(tree, name, as_meant(value, kind), merge=False)
    except (OmegaConfBaseException, ValueError, OverflowError):
        shown = "null" if value is None else str(value)
        shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[:40]}…"
        return [f"{key}={shown}: must be {described(kind)}"]
    return []


def _assign_entry(entry: DictConfig, settings: object, key: str, entry_type: type) -> list[str]:
    """Set what ``settings`` say of an entry of a list of sections; the problems with them."""
    if not isinstance(settings, Mapping):
        return [f"{key}={settings}: must be a mapping of settings"]
    types, problems = get_type_hints(entry_type), []
    for name, value in settings.items():
        if name in types:
            problems += _assign(entry, name, value, f"{key}.{name}", types[name])
        else:
            matches = get_close_matches(str(name), types, n=1, cutoff=0.6)
            hint = f"did you mean {matches[0]}?" if matches else f"it has {', '.join(types)}"
            problems.append(f"unknown key {key}.{name}; {hint}")
    return problems


def build(
    tree: DictConfig, merged: Merged, problems: list[str], hydra_later: bool = False
) -> Config:
    """The ``Config`` of a typed tree, interpolations resolved, with its checks.

    What fails is added to ``problems``. ``hydra_later``: ``${hydra:…}`` is not known yet; keys that
    need it are checked when it is.
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
                origin = f"{merged.origin(key)}: " if key in merged.layers else ""
                problems.append(f"{origin}{key}={raw}: {first_line(error)}")
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    _expand_home(config)
    problems += config.problems()
    return config


def _expand_home(config: Config) -> None:
    for key in PATHS:
        *section, name = key.split(".")
        owner = getattr(config, section[0]) if section else config
        setattr(owner, name, expanded(getattr(owner, name)))
    for entries in (config.contrastive.sources, config.mteb_local, config.dataset.mixture):
        for entry in (value for value in entries.values() if isinstance(value, dict)):
            entry.update({"path": expanded(entry["path"])} if "path" in entry else {})


def expanded(value: Any) -> Any:
    """A text with the home directory for ``~`` at its beginning; other values as they are."""
    # os.path leaves ~somebody alone where there is no such user; pathlib raises.
    return os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111
