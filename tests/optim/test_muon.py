"""MuonClip against torch's Muon and AdamW, and what distinguishes it from them."""

import io
import logging

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from neobert.config.optimizer import MuonConfig
from neobert.optim.muon import (
    BATCH_NUMBERS,
    MAX_SKIPPED_IN_A_ROW,
    MuonClip,
    Piece,
    batches,
    update_scale,
)
from neobert.optim.orthogonalize import orthogonalize

HEADS, HEAD_DIM, WIDTH = 2, 4, 8
FP32 = torch.float32

Named = dict[str, nn.Parameter]


def network() -> Named:
    """A fused projection, two plain matrices of one shape, one of another, and a norm."""
    shapes = {
        "0.qkv.weight": (3 * WIDTH, WIDTH),
        "0.wo.weight": (WIDTH, WIDTH),
        "0.w1.weight": (12, WIDTH),
        "1.w1.weight": (12, WIDTH),
        "head.weight": (5, WIDTH),
        "norm.weight": (WIDTH,),
    }
    return {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


def optimizer_of(
    named: Named, lr: float = 0.05, dtype: torch.dtype = FP32, **settings: object
) -> MuonClip:
    def members(*names: str) -> list[tuple[str, nn.Parameter]]:
        return [(name, named[name]) for name in names]

    adam = {"muon": False, "lr": lr, "betas": (0.9, 0.98), "eps": 1e-8}
    muon = {"muon": True, "lr": lr, "weight_decay": 0.1}
    optimizer = MuonClip(
        [
            {**muon, "heads": HEADS, "params": members("0.qkv.weight")},
            {**muon, "heads": 0, "params": members("0.wo.weight", "0.w1.weight", "1.w1.weight")},
            {**adam, "weight_decay": 0.2, "params": members("head.weight")},
            {**adam, "weight_decay": 0.0, "params": members("norm.weight")},
        ],
        MuonConfig(**{"nesterov": False, **settings}),
    )
    optimizer.dtype = dtype
    return optimizer


def copy_of(named: Named) -> Named:
    return {name: nn.Parameter(p.detach().clone()) for name, p in named.items()}


def train(named: Named, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in named.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("nesterov", [True, False])
def test_plain_matrices_move_as_with_torchs_muon(nesterov: bool) -> None:
    ours = network()
    theirs = copy_of(ours)
    start = copy_of(ours)
    optimizer = optimizer_of(
        ours,
        dtype=torch.bfloat16,
        orthogonalization="newton_schulz",
        nesterov=nesterov,
        norm_factor="match_rms_adamw",
    )
    train(ours, optimizer, range(3))
    plain = ["0.wo.weight", "0.w1.weight", "1.w1.weight"]
    oracle = torch.optim.Muon(
        [theirs[name] for name in plain],
        lr=0.05,
        weight_decay=0.1,
        nesterov=nesterov,
        adjust_lr_fn="match_rms_adamw",
    )
    train(theirs, oracle, range(3))
    for name in plain:
        moved = (ours[name] - start[name]).norm()
        # Both iterate in bf16, torch's also normalises in it: 8 bits of mantissa.
        assert (ours[name] - theirs[name]).norm() < 0.02 * moved


def test_the_rest_moves_as_with_torchs_adamw() -> None:
    ours = network()
    theirs = copy_of(ours)
    train(ours, optimizer_of(ours), range(5))
    groups = [
        {"params": [theirs["head.weight"]], "weight_decay": 0.2},
        {"params": [theirs["norm.weight"]], "weight_decay": 0.0},
    ]
    train(theirs, torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.98), fused=True), range(5))
    for name in ("head.weight", "norm.weight"):
        assert ours[name].equal(theirs[name])


def test_q_k_v_are_three_matrices_though_stored_in_one() -> None:
    named = network()
    start = copy_of(named)
    optimizer = optimizer_of(named, lr=0.05, muon_beta=0.0)
    train(named, optimizer, range(1))
    for which in range(3):

        def rows(x: Tensor, which: int = which) -> Tensor:
            return x.detach().unflatten(0, (HEADS, 3, HEAD_DIM))[:, which].flatten(0, 1)

        gradient = rows(named["0.qkv.weight"].grad)
        update = 0.2 * WIDTH**0.5 * orthogonalize(gradient[None])[0]
        expected = rows(start["0.qkv.weight"]) * (1 - 0.05 * 0.1) - 0.05 * update
        assert_close(rows(named["0.qkv.weight"]), expected)


@pytest.mark.proves("optimizer.muon_config.muon_beta")
def test_momentum_is_an_average_and_the_only_state_of_a_matrix() -> None:
    named = network()
    optimizer = optimizer_of(named, muon_beta=0.8)
    train(named, optimizer, range(1))
    first = named["0.wo.weight"].grad.clone()
    train(named, optimizer, range(1, 2))
    state = optimizer.state[named["0.wo.weight"]]
    assert set(state) == {"momentum_buffer"}
    expected = 0.8 * 0.2 * first + 0.2 * named["0.wo.weight"].grad
    assert_close(state["momentum_buffer"], expected)


@pytest.mark.proves("optimizer.muon_config.norm_factor")
@pytest.mark.parametrize(
    ("rule", "scale"),
    [("match_rms_adamw", 1.2), ("spectral", 1.5), ("legacy_compat", 2.4), ("none", 1.0)],
)
def test_update_scales(rule: str, scale: float) -> None:
    assert update_scale(rule, 36, 16) == pytest.approx(scale)


def test_default_scale_gives_adamws_root_mean_square() -> None:
    named = {"0.w.weight": nn.Parameter(torch.zeros(64, 32))}
    group = {
        "params": list(named.items()),
        "muon": True,
        "heads": 0,
        "weight_decay": 0.0,
        "lr": 1.0,
    }
    optimizer = MuonClip([group], MuonConfig(nesterov=False))
    optimizer.dtype = FP32
    train(named, optimizer, range(1))
    rms = named["0.w.weight"].detach().square().mean().sqrt().item()
    assert rms == pytest.approx(0.2, rel=0.05)


def test_matrices_of_one_shape_share_a_chain_within_the_memory_bound() -> None:
    big = [Piece(torch.empty(8192, 4096, device="meta"), torch.empty(0), 1.0) for _ in range(5)]
    small = [Piece(torch.empty(4, 3), torch.empty(0), 1.0) for _ in range(3)]
    assert [len(batch) for batch in batches([*big, *small], BATCH_NUMBERS)] == [
        2,
        2,
        1,
        3,
    ]


def test_resume_is_exact_to_the_bit_and_loads_as_plain_data() -> None:
    straight = network()
    resumed = copy_of(straight)
    train(straight, optimizer_of(straight), range(6))
    before = optimizer_of(resumed)
    train(resumed, before, range(3))
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    after = optimizer_of(resumed)
    after.load_state_dict(torch.load(file, weights_only=True))
    train(resumed, after, range(3, 6))
    for name, parameter in straight.items():
        assert parameter.equal(resumed[name])


@pytest.mark.proves("optimizer.muon_config.detect_anomalies")
def test_a_non_finite_gradient_is_named_skipped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    named = network()
    optimizer = optimizer_of(named, detect_anomalies=True)
    train(named, optimizer, range(2))
    before = copy_of(named)
    named["0.w1.weight"].grad[0, 0] = torch.nan
    with caplog.at_level(logging.WARNING, logger="neobert"):
        optimizer.step()
    assert "0.w1.weight: update skipped (1 so far)" in caplog.text
    assert optimizer.skipped_updates == 1
    assert all(named[name].equal(parameter) for name, parameter in before.items())
    train(named, optimizer, range(2, 3))
    assert not named["0.w1.weight"].equal(before["0.w1.weight"])
    again = optimizer_of(named, detect_anomalies=True)
    again.load_state_dict(optimizer.state_dict())
    assert again.skipped_updates == 1


def test_many_non_finite_gradients_in_a_row_stop_the_run() -> None:
    named = network()
    optimizer = optimizer_of(named, detect_anomalies=True)
    train(named, optimizer, range(1))
    named["norm.weight"].grad.fill_(torch.inf)
    for _ in range(MAX_SKIPPED_IN_A_ROW - 1):
        optimizer.step()
    with pytest.raises(FloatingPointError, match=r"norm\.weight.*optimizer\.lr"):
        optimizer.step()
