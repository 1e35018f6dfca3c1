"""Every parameter has one owner, the one that the reference's rules give it."""

import re

import pytest
import torch
from torch import nn

from neobert.config.model import ModelConfig
from neobert.config.optimizer import MuonConfig, OptimizerConfig
from neobert.model.heads import MaskedLM
from neobert.optim.build import build_optimizer, parameter_groups
from neobert.optim.groups import ADAM, DECAYED, MUON, UNDECAYED, owners, owners_table

EXPECTED = {
    "model.encoder.weight": UNDECAYED,
    "model.positional_embedding.weight": UNDECAYED,
    "model.transformer_encoder.0.attention_norm.weight": UNDECAYED,
    "model.transformer_encoder.0.qkv.weight": MUON,
    "model.transformer_encoder.0.wo.weight": MUON,
    "model.transformer_encoder.0.ffn.w1.weight": MUON,
    "model.transformer_encoder.0.ffn.w1.bias": UNDECAYED,
    "model.layer_norm.weight": UNDECAYED,
    "decoder.weight": DECAYED,
    "dense.weight": DECAYED,
    "classifier.bias": UNDECAYED,
}


def parameters() -> list[tuple[str, nn.Parameter]]:
    def make(name: str) -> nn.Parameter:
        one_dimensional = "norm" in name or name.endswith("bias")
        return nn.Parameter(torch.randn(12) if one_dimensional else torch.randn(12, 4))

    return [(name, make(name)) for name in EXPECTED]


@pytest.mark.proves("optimizer.name")
def test_muonclip_owns_the_blocks_matrices_only() -> None:
    rows = owners(OptimizerConfig(name="muonclip"), parameters())
    assert {row.name: row.owner for row in rows} == EXPECTED


def test_adamw_decays_matrices_but_not_embeddings_norms_biases() -> None:
    rows = owners(OptimizerConfig(name="adamw"), parameters())
    decayed = {name for name, owner in EXPECTED.items() if owner in (MUON, DECAYED)}
    assert {row.name for row in rows if row.owner == DECAYED} == decayed
    assert {row.name for row in rows if row.owner == UNDECAYED} == set(EXPECTED) - decayed


def test_adam_has_one_group_with_coupled_decay() -> None:
    config = OptimizerConfig(name="adam", weight_decay=0.1)
    rows = owners(config, parameters())
    assert {(row.owner, row.decay) for row in rows} == {(ADAM, 0.1)}
    assert type(build_optimizer(config, parameters(), 2)) is torch.optim.Adam


@pytest.mark.proves("optimizer.muon_config.muon_decay", "optimizer.weight_decay")
def test_each_family_has_its_own_decay() -> None:
    config = OptimizerConfig(
        name="muonclip", weight_decay=0.3, muon_config=MuonConfig(muon_decay=0.2)
    )
    decay = {row.owner: row.decay for row in owners(config, parameters())}
    assert decay == {MUON: 0.2, DECAYED: 0.3, UNDECAYED: 0.0}
    rows = owners(config, parameters(), decays=False)  # nGPT's
    assert {(row.owner, row.decay) for row in rows} == {(MUON, 0.0), (UNDECAYED, 0.0)}


@pytest.mark.parametrize("name", ["adamw", "adam", "muonclip"])
def test_no_parameter_is_left_out_or_taken_twice(name: str) -> None:
    named = parameters()
    named[2][1].requires_grad_(False)
    groups = parameter_groups(OptimizerConfig(name=name), named, num_heads=2)
    taken = [key for group in groups for key, _ in group["params"]]
    assert sorted(taken) == sorted(key for key, parameter in named if parameter.requires_grad)


def test_the_table_joins_equal_blocks() -> None:
    named = [
        (f"model.transformer_encoder.{i}.wo.weight", nn.Parameter(torch.randn(4, 4)))
        for i in range(3)
    ]
    table = owners_table(owners(OptimizerConfig(name="muonclip"), named))
    assert "*.wo" in table
    assert "48" in table


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    model = MaskedLM(ModelConfig(), vocab_size=30522, pad_token_id=0)
    table = owners_table(owners(OptimizerConfig(name="muonclip"), model.named_parameters()))
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    kinds = {re.sub(r"\.\d+\.", ".*.", name) for name, _ in model.named_parameters()}
    assert len(lines) == len(kinds) + 3  # title, header, rule: no row is broken
