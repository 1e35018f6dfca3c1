"""Orthogonalisation against the SVD, against golden values, and batched against one by one."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from neobert.optim.orthogonalize import orthogonalize, triples


def hashed(rows: int, columns: int) -> Tensor:
    """The matrix of behaviour.md 3.8: a hash of the element's index, uniform in [-0.5, 0.5)."""
    values = []
    for element in range(rows * columns):
        h = (element * 2654435761 + 2246822519) % 2**32
        h ^= h >> 15
        h = h * 2246822519 % 2**32
        h ^= h >> 13
        values.append(h / 2**32 - 0.5)
    return torch.tensor(values).view(rows, columns)


GOLDEN = {
    ("newton_schulz", 4, 6): [-0.17152, -0.60228, -0.31838, 0.39872, -0.4573, -0.48326],
    ("polar_express", 4, 6): [-0.16288, -0.55003, -0.31075, 0.35266, -0.42825, -0.40661],
    ("newton_schulz", 6, 4): [0.17637, -0.71631, -0.28039, 0.44929],
    ("polar_express", 6, 4): [0.27731, -0.68713, -0.40419, 0.42764],
}


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_first_row_is_the_references(case: tuple[str, int, int]) -> None:
    method, rows, columns = case
    result = orthogonalize(hashed(rows, columns)[None], method, 5, torch.float32)[0]
    assert_close(result[0], torch.tensor(GOLDEN[case]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16), (5, 123)])
@pytest.mark.parametrize(
    ("method", "low", "high"), [("polar_express", 0.85, 1.15), ("newton_schulz", 0.65, 1.25)]
)
def test_singular_values_end_near_one_and_vectors_stay(
    shape: tuple[int, int], method: str, low: float, high: float
) -> None:
    # Singular values from 0.05 to 1, so that five steps reach them all.
    u, _, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    matrix = u * torch.linspace(0.05, 1, min(shape), dtype=torch.float64) @ v
    found = orthogonalize(matrix[None], method, 5)[0]
    values = torch.linalg.svdvals(found)
    assert low < values.min()
    assert values.max() < high
    rotated = u.T @ found @ v.T  # diagonal, if the vectors are still those of the matrix
    assert_close(rotated, torch.diag(rotated.diagonal()), atol=1e-9, rtol=0)


def test_polar_express_converges_to_the_polar_factor() -> None:
    matrix = torch.randn(12, 20, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert_close(orthogonalize(matrix[None], "polar_express", 12)[0], u @ v, atol=1e-8, rtol=0)


@pytest.mark.parametrize("method", ["polar_express", "newton_schulz"])
def test_a_batch_is_its_matrices_one_by_one(method: str) -> None:
    matrices = torch.randn(3, 8, 12)
    alone = torch.stack([orthogonalize(m[None], method, 5)[0] for m in matrices])
    assert_close(orthogonalize(matrices, method, 5), alone)


def test_zeros_stay_zeros_and_size_does_not_matter() -> None:
    matrix = torch.randn(1, 4, 6)
    assert_close(orthogonalize(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))
    assert_close(orthogonalize(matrix), orthogonalize(1000 * matrix), atol=1e-4, rtol=1e-4)


@pytest.mark.proves("optimizer.muon_config.ns_steps")
def test_more_steps_come_nearer() -> None:
    matrix = torch.randn(1, 16, 16)
    spread = [
        (torch.linalg.svdvals(orthogonalize(matrix, "polar_express", steps)) - 1).abs().max()
        for steps in (2, 5, 10)
    ]
    assert spread[0] > spread[1] > spread[2]
    assert len(triples("polar_express", 12)) == 12


def test_bfloat16_agrees_with_float32_within_its_rounding() -> None:
    matrix = torch.randn(2, 16, 24)
    low = orthogonalize(matrix, "newton_schulz", 5, torch.bfloat16)
    assert low.dtype == torch.bfloat16
    assert_close(low.float(), orthogonalize(matrix, "newton_schulz", 5), atol=0.03, rtol=0)
