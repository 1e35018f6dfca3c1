"""QK-clip brings the largest logit of a hot head to the threshold, and touches nothing else."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from neobert.optim.qk_clip import qk_clip_, qk_clip_separate_

HEADS, WIDTH, TOKENS = 3, 5, 7


def largest(x: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Largest logit per head, written out. q, k: (H, D, E)."""
    queries, keys = x @ q.mT, x @ k.mT  # (H, T, D)
    return (queries @ keys.mT / WIDTH**0.5).amax((1, 2))


def of_fused(x: Tensor, qkv: Tensor) -> Tensor:
    q, k, _ = qkv.unflatten(0, (HEADS, 3, WIDTH)).unbind(1)
    return largest(x, q, k)


@pytest.mark.proves(
    "optimizer.muon_config.clipping_threshold", "optimizer.muon_config.clipping_alpha"
)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_hot_heads_land_on_the_threshold_and_cool_ones_stay(alpha: float) -> None:
    x = torch.randn(TOKENS, 16, dtype=torch.float64)
    qkv = torch.randn(3 * HEADS * WIDTH, 16, dtype=torch.float64)
    before, start = of_fused(x, qkv), qkv.clone()
    threshold = float(before.median())
    clipped = qk_clip_(qkv, before.float(), threshold, alpha)
    assert int(clipped) == 1
    assert_close(of_fused(x, qkv), before.clamp(max=threshold), rtol=1e-6, atol=0)

    changed = (qkv != start).view(HEADS, 3, -1).any(-1)  # (H, 3)
    hot = before > threshold
    assert changed[:, 0].equal(hot & (alpha > 0))
    assert changed[:, 1].equal(hot & (alpha < 1))
    assert not changed[:, 2].any()


def test_a_second_clip_changes_nothing() -> None:
    x, qkv = torch.randn(TOKENS, 16), torch.randn(3 * HEADS * WIDTH, 16)
    qk_clip_(qkv, of_fused(x, qkv), 2.0)
    after = qkv.clone()
    assert int(qk_clip_(qkv, of_fused(x, qkv), 2.0)) == 0
    assert_close(qkv, after)


def test_separate_projections_with_biases() -> None:
    x = torch.cat([torch.randn(TOKENS, 16), torch.ones(TOKENS, 1)], 1)  # the last column: bias
    q, k = torch.randn(2, HEADS * WIDTH, 17)
    heads = (HEADS, WIDTH)
    before = largest(x, q.unflatten(0, heads), k.unflatten(0, heads))
    threshold = float(before.min()) / 2
    assert threshold > 0
    clipped = qk_clip_separate_(
        [q[:, :16], q[:, 16]], [k[:, :16], k[:, 16]], before, threshold, alpha=0.25
    )
    assert int(clipped) == HEADS
    after = largest(x, q.unflatten(0, heads), k.unflatten(0, heads))
    assert_close(after, torch.full((HEADS,), threshold))


@pytest.mark.parametrize("measured", [-torch.inf, -80.0, 0.0, 50.0, torch.inf])
def test_heads_without_a_large_positive_logit_are_left_alone(measured: float) -> None:
    qkv = torch.randn(3 * WIDTH, 4)
    start = qkv.clone()
    assert int(qk_clip_(qkv, torch.tensor([measured]), 50.0)) == 0
    assert qkv.equal(start)
