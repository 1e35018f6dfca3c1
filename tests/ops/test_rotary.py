import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from neobert.config.model import ModelConfig
from neobert.config.root import Config
from neobert.ops.rotary import (
    apply_rotary,
    rotary_table,
    scaled_frequencies,
    turn_as_complex,
    turn_as_reals,
)


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


SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 1024},
    "yarn, all keys": {
        "rope_type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": 300,
        "beta_fast": 16,
        "beta_slow": 2,
        "attention_factor": 1.3,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("theta", [1e4, 1.6e5])
def test_scaled_frequencies_are_those_of_transformers(name: str, theta: float) -> None:
    scaling = SCALINGS[name]
    config = PretrainedConfig()
    config.hidden_size, config.num_attention_heads = 4 * 64, 4
    config.max_position_embeddings = 4096
    if int(transformers.__version__.partition(".")[0]) < 5:
        config.rope_theta, config.rope_scaling = theta, dict(scaling)
    else:
        config.rope_parameters = {"rope_theta": theta, **scaling}
    expected, height = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, device="cpu")
    plain = theta ** (-torch.arange(0, 64, 2) / 64)
    ours, our_height = scaled_frequencies(plain, theta, scaling)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    assert our_height == pytest.approx(height)
    cos, sin = rotary_table(torch.tensor([5, 700]), 64, theta, scaling)
    angles = torch.tensor([5.0, 700.0])[:, None] * expected
    torch.testing.assert_close(cos, angles.cos() * height, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sin, angles.sin() * height, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("scaling", "problem"),
    [
        ({"rope_type": "ntk"}, "model.rope_scaling.rope_type=ntk: must be one of"),
        ({"factor": 2}, "model.rope_scaling.rope_type=None: must be one of"),
        ({"rope_type": "yarn", "factor": 2}, "original_max_position_embeddings: rope_type=yarn"),
        ({"rope_type": "linear"}, "model.rope_scaling.factor: rope_type=linear needs it"),
        ({"rope_type": "linear", "factor": 0}, "factor=0: must be greater than 0"),
        ({"rope_type": "linear", "factor": "2"}, "factor='2': must be number"),
        (
            {"rope_type": "linear", "factor": 2, "beta": 1},
            "unknown key model.rope_scaling.beta; it has rope_type, factor",
        ),
    ],
)
def test_a_scaling_that_is_wrong(scaling: dict[str, object], problem: str) -> None:
    assert problem in "\n".join(Config(model=ModelConfig(rope_scaling=scaling)).problems())
