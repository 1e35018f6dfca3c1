"""``trainer.ema_decay``: the averages, what is evaluated and saved, resume, what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import neobert
from neobert.errors import ConfigError
from neobert.files import read_json

DECAY = 0.75
EMA = (f"trainer.ema_decay={DECAY}", "trainer.save_steps=1", "trainer.save_total_limit=0")


@pytest.fixture(scope="module")
def averaged(tiny_run_module) -> Path:
    return tiny_run_module(*EMA, folder="averaged")


def saved(run: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights that tools and exports read."""
    return load_file(run / "checkpoints" / str(step) / "model.safetensors")


def trained(run: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights that the optimizer continues from."""
    state = torch.load(run / "checkpoints" / str(step) / "trainer_state.pt", weights_only=True)
    return {
        name.removeprefix("model."): value for name, value in state["current_model_state"].items()
    }


@pytest.mark.proves("trainer.ema_decay")
def test_the_saved_weights_are_the_average_over_all_steps(averaged: Path) -> None:
    average = trained(averaged, 1)
    for step in range(2, 5):
        weights = trained(averaged, step)
        average = {
            name: DECAY * value + (1 - DECAY) * weights[name] for name, value in average.items()
        }
    stored = saved(averaged, 4)
    for name, value in stored.items():
        torch.testing.assert_close(value, average[name], rtol=1e-6, atol=1e-8)
    assert not torch.equal(stored["model.encoder.weight"], weights["model.encoder.weight"])


def test_training_is_that_without_averages(averaged: Path, tiny_run_module) -> None:
    plain = saved(tiny_run_module(folder="plain"), 4)
    weights = trained(averaged, 4)
    assert all(torch.equal(value, weights[name]) for name, value in plain.items())


def test_evaluations_are_of_the_averages(averaged: Path) -> None:
    logged = read_json(averaged / "summary.json")["after"]["eval/loss"]
    evaluated = neobert.evaluate(averaged, checkpoint=4)["eval/loss"]
    assert evaluated == pytest.approx(logged, rel=1e-6)


def test_a_resumed_run_continues_weights_and_averages(averaged: Path, tiny_run_module) -> None:
    run = tiny_run_module(*EMA, folder="resumed")
    tiny_run_module(*EMA, "trainer.resume_from_checkpoint=2", folder="resumed")
    for read in (saved, trained):
        straight, resumed = read(averaged, 4), read(run, 4)
        assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    with pytest.raises(ConfigError, match=r"trainer\.ema_decay differs from the checkpoint's"):
        tiny_run_module("trainer.resume_from_checkpoint=2", folder="resumed")
