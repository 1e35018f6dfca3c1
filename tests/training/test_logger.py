"""W&B as the ``wandb`` section asks for it, offline, without a network."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
import wandb

from neobert.config.compose import compose_config
from neobert.config.root import Config
from neobert.training.logger import WandbMetrics, build_loggers, wants_wandb
from neobert.training.run_folder import RunFolder, open_run_folder

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # inside wandb
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _finish() -> Iterator[None]:
    yield
    wandb.finish()


def settings(tmp_path: Path, *words: str) -> tuple[Config, RunFolder]:
    config = compose_config(
        [
            "wandb.enabled=true",
            "wandb.mode=offline",
            f"wandb.dir={tmp_path / 'wandb'}",
            f"trainer.output_dir={tmp_path / 'run'}",
            *words,
        ]
    )
    return config, open_run_folder(config, resuming=(tmp_path / "run").exists())


def wandb_logger(config: Config, run: RunFolder, step: int | None = None) -> WandbMetrics:
    (found,) = [one for one in build_loggers(config, run, step) if isinstance(one, WandbMetrics)]
    return found


@pytest.mark.proves(
    "wandb.project", "wandb.entity", "wandb.name", "wandb.tags", "wandb.dir", "wandb.mode"
)
def test_the_run_is_filed_as_the_settings_say(tmp_path: Path) -> None:
    words = ("wandb.project=mine", "wandb.entity=us", "wandb.name=first", "wandb.tags=[a,b]")
    logger = wandb_logger(*settings(tmp_path, *words, "optimizer.lr=3e-3"))
    run = logger.experiment
    assert (run.project, run.entity, run.name, run.tags) == ("mine", "us", "first", ("a", "b"))
    assert run.offline
    assert Path(run.dir).is_relative_to(tmp_path / "wandb")
    assert run.config["optimizer"]["lr"] == 3e-3
    assert list((tmp_path / "wandb").rglob("run-*.wandb"))


@pytest.mark.proves("wandb.resume")
@pytest.mark.parametrize(("resume", "same"), [("allow", True), ("never", False)])
def test_a_resumed_run_is_the_same_one_there(resume: str, same: bool, tmp_path: Path) -> None:
    first = wandb_logger(*settings(tmp_path)).experiment.id
    wandb.finish()
    again = wandb_logger(*settings(tmp_path, f"wandb.resume={resume}"), step=2).experiment.id
    assert (first == again) is same


@pytest.mark.proves("wandb.log_interval")
def test_training_metrics_go_there_every_so_many_steps_and_evaluations_always(
    tmp_path: Path,
) -> None:
    logger = wandb_logger(*settings(tmp_path, "wandb.log_interval=20"))
    logger.log_metrics({"train/loss": 1.0, "eval/loss": 2.0}, step=10)
    logger.log_metrics({"train/loss": 3.0}, step=20)
    logger.log_metrics({"train/loss": 5.0}, step=30)
    seen = dict(logger.experiment.summary)
    assert (seen["train/loss"], seen["eval/loss"]) == (3.0, 2.0)


@pytest.mark.parametrize(("watch", "hooked"), [("gradients", 1), ("weights", 0), ("off", 0)])
def test_histograms_of_gradients_need_a_hook_on_each(
    watch: str, hooked: int, tmp_path: Path
) -> None:
    logger = wandb_logger(*settings(tmp_path, f"wandb.watch={watch}"))
    module = torch.nn.Linear(2, 1, bias=False)
    logger.log_graph(module)
    assert len(module.weight._backward_hooks or {}) == hooked


@pytest.mark.proves("wandb.enabled", "trainer.report_to", "wandb.mode")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("wandb.enabled=true",), True),
        (("trainer.report_to=[wandb]",), True),
        (("wandb.enabled=true", "wandb.mode=disabled"), False),
        ((), False),
    ],
)
def test_nothing_is_sent_unless_asked_for(words: tuple[str, ...], wanted: bool) -> None:
    assert wants_wandb(compose_config(words)) is wanted


@pytest.mark.filterwarnings("ignore")  # inside mlflow and sqlalchemy
@pytest.mark.proves("trainer.report_to")
def test_several_loggers_at_once_write_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    config, run = settings(
        tmp_path, "wandb.enabled=false", "trainer.report_to=[csv,tensorboard,mlflow]"
    )
    loggers = build_loggers(config, run, None)
    for logger in loggers:
        logger.log_metrics({"train/loss": 1.5}, 3)
        logger.save()
        logger.finalize("success")
    with closing(sqlite3.connect(run.path / "mlflow.db")) as database:
        rows = database.execute("select key, value, step from metrics").fetchall()
    assert rows == [("train/loss", 1.5, 3)]
    assert run.metrics_file.read_text() == "step,train/loss\n3,1.5\n"
    assert list((run.path / "tensorboard").glob("events.*"))
