import pytest
import torch

from neobert.config.trainer import PRECISIONS, TrainerConfig
from neobert.training import precision
from neobert.training.precision import resolve_precision, set_tf32

HAS_BF16, LACKS_BF16 = True, False


@pytest.mark.proves("trainer.mixed_precision", "trainer.emulate_bf16")
@pytest.mark.parametrize(
    ("settings", "on_cuda", "cpu", "expected"),
    [
        ({"mixed_precision": "no"}, True, HAS_BF16, "32-true"),
        ({"mixed_precision": "fp16"}, True, HAS_BF16, "16-mixed"),
        ({"mixed_precision": "bf16-true"}, False, LACKS_BF16, "bf16-true"),
        ({"mixed_precision": "bf16"}, True, LACKS_BF16, "bf16-mixed"),
        ({"mixed_precision": "bf16"}, False, HAS_BF16, "bf16-mixed"),
        ({"mixed_precision": "bf16"}, False, LACKS_BF16, "32-true"),
        ({"mixed_precision": "bf16", "emulate_bf16": True}, False, LACKS_BF16, "bf16-mixed"),
    ],
)
def test_precision_is_what_was_asked_and_can_be_had(
    monkeypatch, settings, on_cuda, cpu, expected
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: cpu)
    found = resolve_precision(TrainerConfig(**settings), on_cuda)
    assert found.lightning == expected
    asked_and_got_bf16 = settings["mixed_precision"] == "bf16" and expected == "32-true"
    assert (found.reason is not None) == asked_and_got_bf16


def test_every_precision_of_the_settings_has_a_case() -> None:
    for name in PRECISIONS:
        assert resolve_precision(TrainerConfig(mixed_precision=name), on_cuda=True).lightning


@pytest.mark.proves("trainer.tf32")
def test_tf32_is_allowed_or_not() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        set_tf32(True)
        assert torch.get_float32_matmul_precision() == "high"
        set_tf32(False)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)
