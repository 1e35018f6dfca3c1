import pytest
import torch
from torch.testing import assert_close

from neobert.ops.rotary import apply_rotary, rotary_table, turn_as_complex, turn_as_reals


def test_a_known_vector_turns_as_published() -> None:
    cos, sin = rotary_table(torch.tensor([1]), 8, 10_000.0)
    turned = apply_rotary(torch.arange(8.0).view(1, 1, 8), cos, sin)
    expected = [-0.84147, 0.54030, 1.69051, 3.18468, 3.94980, 5.03975, 5.99300, 7.00600]
    assert_close(turned.flatten(), torch.tensor(expected), atol=1e-5, rtol=0)


def test_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 8)

    def product(query: int, key: int) -> float:
        (turned_q,) = apply_rotary(q, *rotary_table(torch.tensor([query]), 8, 100.0))
        (turned_k,) = apply_rotary(k, *rotary_table(torch.tensor([key]), 8, 100.0))
        return (turned_q * turned_k).sum().item()

    assert product(9, 5) == pytest.approx(product(104, 100), abs=1e-4)


def test_angles_are_fp32_and_the_type_of_the_input_comes_back() -> None:
    cos, sin = rotary_table(torch.tensor([4000]), 4, 10_000.0)
    assert cos.dtype == sin.dtype == torch.float32
    x = torch.randn(1, 2, 4).bfloat16()
    assert_close(apply_rotary(x, cos, sin), apply_rotary(x.float(), cos, sin).bfloat16())


@pytest.mark.parametrize("theta", [100.0, 10_000.0])
def test_frequencies_fall_with_theta(theta) -> None:
    cos, _ = rotary_table(torch.tensor([1]), 4, theta)
    assert_close(cos[0].acos(), torch.tensor([1.0, theta**-0.5]), atol=1e-3, rtol=0)


def test_both_ways_to_turn_agree_in_values_and_gradients() -> None:
    x = torch.randn(5, 2, 8, dtype=torch.float64, requires_grad=True)
    cos, sin = (part[:, None].double() for part in rotary_table(torch.arange(5), 8, 100.0))
    weight = torch.randn(5, 2, 8, dtype=torch.float64)
    found = []
    for turn in (turn_as_complex, turn_as_reals):
        out = turn(x, cos, sin)
        found.append((out, torch.autograd.grad((out * weight).sum(), x)[0]))
    assert_close(*found)
