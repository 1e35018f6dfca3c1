"""``latest``, ``best`` and a step name the checkpoints they say."""

import shutil
from pathlib import Path

import pytest
import torch

from neobert.config.trainer import TrainerConfig
from neobert.errors import ConfigError
from neobert.model.weight_files import WEIGHTS, NoWeightsError
from neobert.training.checkpoint import FolderCheckpointIO
from neobert.training.resume import resume_point
from neobert.training.start import best_step, select


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 5, 10 and 20; at the end 10 is the best."""
    (tmp_path / "checkpoints").mkdir()
    for step, best in ((5, None), (10, 10), (20, 10)):
        state = {
            "state_dict": {"model.weight": torch.full((2,), float(step))},
            "callbacks": {"Other": {}, "Checkpointer": {"best_value": 1.0, "best_step": best}},
        }
        FolderCheckpointIO(lambda folder: None).save_checkpoint(
            state, tmp_path / "checkpoints" / str(step)
        )
    return tmp_path


@pytest.mark.proves("pretrained_checkpoint")
@pytest.mark.parametrize(("selector", "step"), [("latest", "20"), ("best", "10"), ("5", "5")])
def test_each_selector_names_its_checkpoint(run, selector, step) -> None:
    assert select(run, selector, "key").name == step


def test_a_run_may_continue_from_its_best_checkpoint(run) -> None:
    settings = TrainerConfig(output_dir=str(run), resume_from_checkpoint="best")
    found = resume_point(settings)
    assert found is not None
    assert found.name == "10"


def test_latest_passes_over_a_damaged_one_and_a_step_does_not(run) -> None:
    (run / "checkpoints/20" / WEIGHTS).write_bytes(b"")
    assert select(run, "latest", "key").name == "10"
    with pytest.raises(ConfigError, match="20 is damaged"):
        select(run, "20", "key")


def test_what_is_not_there_is_told_with_what_is(run, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"pretrained_checkpoint=7: there is no 7; .* 5, 10, 20"):
        select(run, "7", "key")
    with pytest.raises(ConfigError, match=r"^key=.*elsewhere: .*there is no such folder"):
        select(tmp_path / "elsewhere", "latest", "key")


def test_a_run_that_never_evaluated_has_no_best(run) -> None:
    assert best_step(run / "checkpoints/5") is None
    for step in ("10", "20"):
        shutil.rmtree(run / "checkpoints" / step)
    with pytest.raises(ConfigError, match=r"was the best of this run \(trainer.save_strategy=best"):
        select(run, "best", "key")


def test_a_run_is_not_resumed_from_the_hub(tmp_path: Path) -> None:
    settings = TrainerConfig(output_dir=str(tmp_path), resume_from_checkpoint="7000")
    with pytest.raises(NoWeightsError) as error:
        resume_point(settings)
    assert str(error.value).endswith("name the folder of a run or of one of its checkpoints")
    with pytest.raises(NoWeightsError, match="or an id of the Hugging Face Hub"):
        select(tmp_path, "latest", "model.init_from")


def test_what_the_hub_answers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object, **__: object) -> None:
        raise OSError("no route\n\nPlease check your connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", answer)
    with pytest.raises(NoWeightsError, match=r"give it: no route Please check your connection$"):
        select("no-such/model", "latest", "model.init_from")
