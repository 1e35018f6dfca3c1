"""From ``optimizer.*`` to the optimizer. To add one, add a case."""

from typing import cast

from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from neobert.config.optimizer import MuonConfig, OptimizerConfig
from neobert.console import get_logger
from neobert.optim.groups import (
    ADAM,
    DECAYED,
    MUON,
    MUONCLIP,
    UNDECAYED,
    NamedParameters,
    decay_of,
    is_fused_qkv,
    owner_of,
)
from neobert.optim.muon import Group, MuonClip

log = get_logger(__name__)


def build_optimizer(
    config: OptimizerConfig, named_parameters: NamedParameters, num_heads: int
) -> Optimizer:
    """Build what ``config`` describes for the parameters of a model with ``num_heads`` heads.

    Weights called ``qkv.weight`` have their rows grouped per head, [Q_h, K_h, V_h].
    """
    groups = parameter_groups(config, named_parameters, num_heads)
    plain = cast(list[dict[str, object]], groups)
    betas = (config.betas[0], config.betas[1])
    match config.name:
        case "adamw":
            return AdamW(plain, config.lr, betas, config.eps, fused=_on_cpu(groups) or None)
        case "adam":
            return Adam(plain, config.lr, betas, config.eps, fused=_on_cpu(groups) or None)
        case "muonclip":
            muon = config.muon_config or MuonConfig()
            for doubt in doubts_about(muon):
                log.warning("optimizer.muon_config.%s", doubt)
            return MuonClip(groups, muon)
        case other:
            raise ValueError(f"optimizer.name has no case for {other!r}")


def parameter_groups(
    config: OptimizerConfig, named_parameters: NamedParameters, num_heads: int
) -> list[Group]:
    """The parameters by owner; fused projections apart, since they are three matrices each."""
    members: dict[tuple[str, int], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            owner = owner_of(config, name, parameter)
            heads = num_heads if owner == MUON and is_fused_qkv(name) else 0
            members.setdefault((owner, heads), []).append((name, parameter))
    order = [MUON, ADAM, DECAYED, UNDECAYED]
    return [
        _group(config, owner, heads, members[owner, heads])
        for owner, heads in sorted(members, key=lambda key: (order.index(key[0]), key[1]))
    ]


def doubts_about(config: MuonConfig) -> list[str]:
    """What is allowed and hardly ever meant; the bounds are the reference's."""
    doubts = []
    if config.ns_steps < 3:
        doubts.append(f"ns_steps={config.ns_steps}: below 3, updates end far from orthogonal")
    if config.enable_clipping and not 30 <= config.clipping_threshold <= 200:
        effect = "clips often" if config.clipping_threshold < 30 else "hardly ever clips"
        threshold = f"clipping_threshold={config.clipping_threshold:g}"
        doubts.append(f"{threshold}: {effect}; 30 to 200 is usual")
    return doubts


def _group(
    config: OptimizerConfig, owner: str, heads: int, members: list[tuple[str, nn.Parameter]]
) -> Group:
    group: Group = {
        "params": cast(list[Tensor], members),
        "lr": config.lr,
        "weight_decay": decay_of(config, owner),
    }
    if owner == MUON:
        return {**group, "muon": True, "heads": heads}
    if config.name == MUONCLIP:
        betas = (config.betas[0], config.betas[1])
        return {**group, "muon": False, "betas": betas, "eps": config.eps}
    return group


def _on_cpu(groups: list[Group]) -> bool:
    """Fused on CPU, where it is three times faster; on GPU torch's batched default.

    Not fused on GPU, where fused optimizers unscale fp16 gradients themselves, after clipping.
    """
    return all(member[1].device.type == "cpu" for group in groups for member in group["params"])
