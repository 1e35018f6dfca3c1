"""Every program that takes settings finds the user's group files, as the train command does."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import neobert
from neobert.config.compose import compose_config
from neobert.errors import ConfigError
from neobert.tools import inspect_data, launch, plan


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "my conf" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\ndefaults: [override /model: neobert_tiny]\nseed: 7\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "settings_of",
    [
        lambda words: plan.plan_arguments(["--mfu", "0.3", *words])[1],
        lambda words: inspect_data.read_command([*words, "--step", "2"])[1],
        lambda words: launch.parser().parse_known_args(["--to", "slurm", *words])[1],
        list,
    ],
    ids=["plan", "inspect_data", "launch", "prepare"],
)
@pytest.mark.parametrize(
    "flag", [["--config-dir", "my conf"], ["--config-dir=my conf"], ["-cd", "my conf"]]
)
def test_the_programs_take_a_folder_of_group_files(
    folder: Path, settings_of: Callable[[Sequence[str]], list[str]], flag: list[str]
) -> None:
    config = compose_config(settings_of([*flag, "experiment=mine", "trainer.max_steps=3"]))
    assert (config.seed, config.trainer.max_steps) == (7, 3)
    assert config.model.hidden_size == compose_config(["model=neobert_tiny"]).model.hidden_size


def test_a_job_gets_the_folder_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config-dir", "my conf", "experiment=mine", "trainer.devices=2"]
    assert launch.main(["--to", "slurm", *words]) == 0
    assert "--config-dir 'my conf' experiment=mine" in capsys.readouterr().out


def test_so_does_python(folder: Path) -> None:
    assert neobert.compose(["experiment=mine"], config_dir="my conf").seed == 7
    assert neobert.compose(["experiment=mine", "seed=1"], folder / "my conf").seed == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--config-dir", "none"], "--config-dir none: there is no such folder"),
        (["--config-dir"], "--config-dir: must name a folder"),
        (["--cfg", "job"], "--cfg: only python -m neobert.train has this flag"),
    ],
)
def test_what_is_no_such_folder_is_one_line(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as failure:
        neobert.compose(words)
    assert failure.value.problems == [problem]
