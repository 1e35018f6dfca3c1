"""``dataset.mixture``: the sources of a pretraining run and their weights.

::

    dataset:
      mixture:
        web: {path: data/web, weight: 0.7}
        wiki: {name: wikimedia/wikipedia, config: 20231101.en, weight: 0.3, max_epochs: 4}
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from neobert.config.checks import Above0, NotNegative, require
from neobert.config.section import annotations_of, fits, mapping_problems

if TYPE_CHECKING:
    from neobert.config.dataset import DatasetConfig

TEXT_KEYS = (
    "name",
    "config",
    "path",
    "text_column",
    "train_split",
    "eval_split",
    "validation_split",
    "eval_samples",
    "trust_remote_code",
)
"""Keys of ``dataset`` that a source may set; all others are those of the run."""

OWN_KEYS: dict[str, Any] = {"weight": NotNegative | None, "max_epochs": Above0 | None}
"""Keys of a source itself, and their types."""

ROUNDING = 1e-6
KEY_OF_TEXT = re.compile(rf"\bdataset\.(?=(?:{'|'.join(TEXT_KEYS)})\b)")
NAME = re.compile(r"[A-Za-z_][\w-]*")


@dataclass(frozen=True, slots=True, eq=False)
class MixtureSource:
    """A source of documents."""

    name: str
    """Empty for the only source of a run without a mixture."""

    dataset: "DatasetConfig"
    """The ``dataset`` section as it applies to this source."""

    weight: float | None = None
    """``None``: by its size."""

    max_epochs: float | None = None

    @property
    def key(self) -> str:
        """Dotted key of its settings."""
        return f"dataset.mixture.{self.name}" if self.name else "dataset"


def mixture_sources(dataset: "DatasetConfig") -> list[MixtureSource]:
    """The sources of a run, in the order of ``dataset.mixture``; one if it is empty."""
    if not dataset.mixture:
        return [MixtureSource("", dataset)]
    return [
        MixtureSource(
            str(name),
            _section_of(dataset, entry),
            *(None if entry.get(key) is None else float(entry[key]) for key in OWN_KEYS),
        )
        for name, entry in dataset.mixture.items()
    ]


def mixture_problems(dataset: "DatasetConfig") -> list[str]:
    """What is wrong with the mixture; empty if nothing is."""
    temperature = dataset.mixture_temperature
    problems = require(
        temperature is None or bool(dataset.mixture),
        f"dataset.mixture_temperature={temperature}: needs dataset.mixture",
    )
    for name, entry in dataset.mixture.items():
        problems += _entry_problems(dataset, str(name), entry)
    return problems + _weight_problems(dataset.mixture)


def stage_mixture_problems(
    dataset: "DatasetConfig", weights: Mapping[str, float], place: str
) -> list[str]:
    """What is wrong with the weights of a stage, whose key is ``place``."""
    key = f"{place}.mixture"
    if weights and not dataset.mixture:
        return [f"{key}: needs dataset.mixture, whose sources it weights"]
    known = ", ".join(map(str, dataset.mixture))
    problems = [
        f"{key}.{name}: is not a source of dataset.mixture, which has {known}"
        for name in weights
        if name not in dataset.mixture
    ]
    if problems or not weights or min(weights.values()) < 0:
        return problems
    return sum_problems(key, list(weights.values()))


def of_source(problem: str, key: str) -> str:
    """A problem with ``dataset.*`` as one with the settings of the source at ``key``."""
    changed = KEY_OF_TEXT.sub(f"{key}.", problem)
    return changed if key in changed else f"{key}: {changed}"


def sum_problems(key: str, weights: list[float]) -> list[str]:
    """A problem unless the weights sum to 1."""
    total = sum(weights)
    shares = ", ".join(f"{weight / total:.6g}" for weight in weights) if total > 0 else ""
    hint = f"; in these proportions they are {shares}" if shares else ""
    return require(
        abs(total - 1) <= ROUNDING, f"{key}: the weights sum to {total:g}, not to 1{hint}"
    )


def _weight_problems(mixture: Mapping[str, object]) -> list[str]:
    """What is wrong with the weights together, once each is right by itself."""
    weights = {
        name: entry.get("weight") for name, entry in mixture.items() if isinstance(entry, dict)
    }
    without = [str(name) for name, weight in weights.items() if weight is None]
    numbers = [weight for weight in weights.values() if weight is not None]
    if not all(fits(weight, float) and weight >= 0 for weight in numbers) or not numbers:
        return []
    if without:
        return [
            f"dataset.mixture: {', '.join(without)} without a weight, the other sources with one; "
            "set all weights, or none for shares by size"
        ]
    return sum_problems("dataset.mixture", numbers)


def _section_of(dataset: "DatasetConfig", entry: Mapping[str, Any]) -> "DatasetConfig":
    """The ``dataset`` section of a source, which inherits what it does not set."""
    values = {key: value for key, value in entry.items() if key in TEXT_KEYS}
    own = {"path": "", "config": None, **values}
    return replace(dataset, mixture={}, mixture_temperature=None, **own)


def _entry_problems(dataset: "DatasetConfig", name: str, entry: object) -> list[str]:
    key = f"dataset.mixture.{name}"
    problems = require(
        NAME.fullmatch(name) is not None,
        f"dataset.mixture: {name!r} cannot name a source; use letters, digits, - and _",
    )
    if not isinstance(entry, dict):
        return [*problems, f"{key}={entry!r}: must be a mapping such as {{path: …, weight: 0.7}}"]
    problems += require(
        bool(entry.get("path") or entry.get("name")), f"{key}: needs {key}.path or {key}.name"
    )
    types = annotations_of(type(dataset))
    return problems + mapping_problems(
        key, entry, OWN_KEYS | {setting: types[setting] for setting in TEXT_KEYS}
    )
