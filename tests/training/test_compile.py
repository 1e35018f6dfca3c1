import pytest

from neobert.config.model import ModelConfig
from neobert.config.trainer import TrainerConfig
from neobert.model.encoder import Encoder
from neobert.training import compile as subject
from neobert.training.compile import compile_if_enabled
from neobert.training.strategy import StrategyChoice


@pytest.fixture
def encoder() -> Encoder:
    config = ModelConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    return Encoder(config, 11, 0)


@pytest.mark.proves("trainer.torch_compile")
@pytest.mark.parametrize("asked", [True, False])
def test_it_compiles_where_it_is_asked_to(encoder, asked) -> None:
    settings = TrainerConfig(torch_compile=asked, torch_compile_backend="eager")
    assert compile_if_enabled(encoder, settings, StrategyChoice("single", 1)) == asked
    assert (encoder.compiled is not None) == asked


@pytest.mark.parametrize(
    ("backend", "strategy", "on_cuda", "compiler", "words"),
    [
        ("aot_eager", "deepspeed_zero2", False, True, "DeepSpeed is active"),
        ("aot_eager", "fsdp2", False, True, None),
        ("inductor", "single", False, False, "needs a C++ compiler"),
        ("inductor", "ddp", True, False, None),  # Triton brings its own
        ("aot_eager", "single", False, False, None),
    ],
)
def test_where_it_cannot_one_line_says_why(  # noqa: PLR0917
    monkeypatch, caplog, encoder, backend, strategy, on_cuda, compiler, words
) -> None:
    monkeypatch.setattr(subject.shutil, "which", lambda name: f"/usr/bin/{name}" * compiler or None)
    settings = TrainerConfig(torch_compile=True, torch_compile_backend=backend)
    choice = StrategyChoice(strategy, devices=1, on_cuda=on_cuda)
    with caplog.at_level("INFO", "neobert"):
        compiled = compile_if_enabled(encoder, settings, choice)
    assert compiled == (words is None)
    (record,) = caplog.records
    assert record.levelname == ("INFO" if compiled else "WARNING")
    assert words is None or words in record.message
