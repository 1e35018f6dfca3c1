import pytest
import torch
from torch.testing import assert_close

from neobert.ops.swiglu import swiglu, swiglu_width


def test_swiglu_gates_the_second_with_the_first() -> None:
    gate, up = torch.randn(2, 3, 5)
    assert_close(swiglu(gate, up), gate * torch.sigmoid(gate) * up)


@pytest.mark.parametrize(("given", "used"), [(3072, 2048), (24, 16), (200, 136), (1024, 688)])
def test_the_width_is_two_thirds_rounded_up_to_eight(given, used) -> None:
    assert swiglu_width(given) == used
