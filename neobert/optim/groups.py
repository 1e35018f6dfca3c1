"""Who updates which parameter: every one has exactly one owner.

Muon is made for matrices that map hidden states to hidden states; embeddings, heads, norms and
biases are updated by Adam, as in all published recipes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import nn

from neobert.config.optimizer import MuonConfig, OptimizerConfig

MUONCLIP = "muonclip"
"""``optimizer.name`` that gives matrices of blocks to Muon."""

MUON = "muon"
DECAYED = "adam, decayed"
UNDECAYED = "adam, undecayed"
ADAM = "adam"

FUSED_QKV = "qkv"
"""Name of the module whose weight holds Q, K and V of every head."""

TOKEN_EMBEDDING = "encoder"
"""Name of the token embedding in the published layout."""

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True, slots=True)
class Owner:
    """A parameter and what updates it."""

    name: str
    shape: tuple[int, ...]
    owner: str
    """One of the constants above."""

    decay: float
    """Weight decay it gets."""


def owners(
    config: OptimizerConfig, named_parameters: NamedParameters, decays: bool = True
) -> list[Owner]:
    """The owner of every parameter that is trained, in the model's order.

    ``decays=False``: of a model that takes no weight decay whatever the settings say (nGPT).
    """
    rows = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            owner = owner_of(config, name, parameter)
            if owner == DECAYED and not decays:
                owner = UNDECAYED
            decay = decay_of(config, owner) if decays else 0.0
            rows.append(Owner(name, tuple(parameter.shape), owner, decay))
    return rows


def owner_of(config: OptimizerConfig, name: str, parameter: nn.Parameter) -> str:
    """What updates the parameter of this name, as the reference decides it."""
    if config.name == "adam":
        return ADAM
    if parameter.ndim < 2 or name.endswith(".bias") or "norm" in name or is_embedding(name):
        return UNDECAYED
    if config.name == MUONCLIP and parameter.ndim == 2 and in_block(name):
        return MUON
    return DECAYED


def decay_of(config: OptimizerConfig, owner: str) -> float:
    """Weight decay of an owner's parameters: ``muon_decay``, ``optimizer.weight_decay`` or none."""
    if owner == MUON:
        return (config.muon_config or MuonConfig()).muon_decay
    return 0.0 if owner == UNDECAYED else config.weight_decay


def is_embedding(name: str) -> bool:
    """Whether this is a table of embeddings: of tokens (perhaps tied to the decoder) or places."""
    module = name.split(".")[:-1]
    return module[-1:] == [TOKEN_EMBEDDING] or any("embed" in part for part in module)


def in_block(name: str) -> bool:
    """Whether the parameter belongs to one of a stack of blocks: those are numbered."""
    return any(part.isdigit() for part in name.split("."))


def is_fused_qkv(name: str) -> bool:
    """Whether the parameter is the fused projection of queries, keys and values."""
    return name.split(".")[-2:] == [FUSED_QKV, "weight"]


def owners_table(rows: list[Owner]) -> str:
    """The owners as a table for a console of 80 columns; blocks of equal content share a row."""
    table = Table("parameters", "shape", "count", "numbers", "owner", "decay", box=SIMPLE_HEAD)
    merged: dict[tuple[str, tuple[int, ...], str, float], int] = {}
    for row in rows:
        key = (_without_numbers(row.name), row.shape, row.owner, row.decay)
        merged[key] = merged.get(key, 0) + 1
    for (name, shape, owner, decay), count in merged.items():
        size = count * prod(shape)
        text = " × ".join(map(str, shape))
        table.add_row(_short(name), text, str(count), f"{size:,}", owner, f"{decay:g}")
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(table)
    lines = (line.rstrip() for line in captured.get().splitlines())
    return "\n".join(["optimizer:", *(line for line in lines if line)])


def _short(name: str) -> str:
    """A name without what all have in common."""
    return name.removeprefix("model.").removeprefix("transformer_encoder.").removesuffix(".weight")


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
