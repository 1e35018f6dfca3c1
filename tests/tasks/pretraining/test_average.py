"""Averages of checkpoints: the weights, what is refused, and the evaluation beside the parts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import neobert
from neobert.tools.average import main


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def checkpoints(tiny_run_module) -> list[Path]:
    run = tiny_run_module("trainer.max_steps=6", "trainer.save_total_limit=0")
    return [run / "checkpoints" / str(step) for step in (2, 4, 6)]


def test_the_mean_is_that_of_the_weights_and_loads(checkpoints: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "mean"
    assert main([*map(str, checkpoints), "--output", str(output)]) == 0
    mean, parts = weights(output), [weights(folder) for folder in checkpoints]
    for name, tensor in mean.items():
        expected = sum(part[name].double() for part in parts) / 3
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-8)
    record = json.loads((output / "average.json").read_text())
    assert [part["path"] for part in record["parts"]] == [str(path) for path in checkpoints]
    losses = record["evaluation_loss"]
    assert list(losses) == [*map(str, checkpoints), str(output)]
    last = json.loads((checkpoints[0].parents[1] / "summary.json").read_text())
    assert losses[str(checkpoints[2])] == pytest.approx(last["after"]["eval/loss"], rel=1e-5)
    model = neobert.load(output)
    assert torch.equal(model.model.encoder.weight, mean["model.encoder.weight"])


def test_weights_of_the_parts(checkpoints: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "mean"
    arguments = [*map(str, checkpoints[:2]), "--output", str(output), "--no-evaluation"]
    assert main([*arguments, "--weights", "3,1"]) == 0
    one, other = (weights(folder) for folder in checkpoints[:2])
    for name, tensor in weights(output).items():
        expected = 0.75 * one[name].double() + 0.25 * other[name].double()
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-8)


def test_a_mean_worse_than_its_best_part_is_said(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mean"
    arguments = [str(checkpoints[0]), str(checkpoints[2]), "--output", str(output)]
    assert main([*arguments, "--weights", "1,1"]) == 0
    losses = json.loads((output / "average.json").read_text())["evaluation_loss"]
    *parts, mean = losses.values()
    assert ("the mean is worse than" in capsys.readouterr().err) == (mean > min(parts))


def test_other_shapes_are_refused_and_nothing_is_written(
    checkpoints: list[Path], tiny_run_module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_run_module("trainer.max_steps=2", "model.hidden_size=8", folder="narrow")
    output = tmp_path / "mean"
    assert main([str(checkpoints[0]), str(other), "--output", str(output)]) == 2
    assert "layer_norm.weight is (16,) in" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("given", "problem"), [("1", "1 numbers for 2 checkpoints"), ("0,0", "not all 0")]
)
def test_wrong_weights_are_one_line(
    checkpoints: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: str,
    problem: str,
) -> None:
    output = tmp_path / "mean"
    arguments = [*map(str, checkpoints[:2]), "--output", str(output), "--weights", given]
    assert main(arguments) == 2
    assert problem in capsys.readouterr().err
