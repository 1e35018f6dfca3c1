"""The protocols in ``conf/experiment`` have the numbers that the papers print."""

from pathlib import Path

import pytest
import yaml

from neobert.config.compose import compose_config
from neobert.config.group_files import conf_dir

NEOBERT = "arXiv 2502.19587v2, section 4: batch size {16, 32} × learning rate {1, 2, 3}e-5"
MODERNBERT = "arXiv 2412.13663v2, appendix: GLUE grid"

GRIDS = [
    # experiment, key, values, source
    ("glue_neobert_paper", "trainer.per_device_train_batch_size", [16, 32], NEOBERT),
    ("glue_neobert_paper", "optimizer.lr", [1e-5, 2e-5, 3e-5], NEOBERT),
    ("glue_modernbert_paper", "optimizer.lr", [1e-5, 3e-5, 5e-5, 8e-5], MODERNBERT),
    ("glue_modernbert_paper", "optimizer.weight_decay", [1e-6, 5e-6, 8e-6, 1e-5], MODERNBERT),
    ("glue_modernbert_paper", "trainer.num_train_epochs", [1, 2, 3], MODERNBERT),
]


@pytest.mark.parametrize(("experiment", "key", "values", "source"), GRIDS)
def test_a_grid_is_the_papers(experiment: str, key: str, values: list[float], source: str) -> None:
    file = conf_dir() / f"experiment/{experiment}.yaml"
    grid = yaml.safe_load(file.read_text())["hydra"]["sweeper"]["params"][key]
    assert [float(value) for value in str(grid).split(",")] == values, source


def test_modernbert_has_a_batch_of_64() -> None:
    config = compose_config(["experiment=glue_modernbert_paper"])
    assert config.trainer.per_device_train_batch_size == 64


@pytest.mark.parametrize(
    "experiment", ["glue_quick", "glue_neobert_paper", "glue_modernbert_paper"]
)
def test_a_protocol_composes_to_a_run_by_epochs(experiment: str) -> None:
    config = compose_config([f"experiment={experiment}", "glue.task_name=rte"])
    assert config.task == "glue"
    assert config.trainer.max_steps <= 0
    assert config.trainer.eval_strategy == "epoch"


@pytest.mark.parametrize("experiment", ["glue_neobert_paper", "glue_modernbert_paper"])
def test_a_papers_protocol_stops_early_and_keeps_the_best(experiment: str) -> None:
    trainer = compose_config([f"experiment={experiment}"]).trainer
    assert trainer.early_stopping > 0
    assert trainer.load_best_model_at_end
    assert trainer.save_strategy == "best"


def test_each_protocol_names_its_source() -> None:
    for path in Path(conf_dir() / "experiment").glob("glue_*_paper.yaml"):
        assert "arXiv" in path.read_text(), path.name


@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        ("experiment=glue_modernbert_paper", 48),
        ("experiment=glue_modernbert_paper trainer.num_train_epochs=2,5,10", 48),
        ("experiment=glue_neobert_paper", 6),
        ("experiment=glue_neobert_paper optimizer.lr=7e-5", 2),  # replaces the file's grid
        ("experiment=glue_neobert_paper seed=0,1,2", 18),
    ],
)
def test_the_sweep_of_a_protocol_starts(words: str, jobs: int, tmp_path: Path) -> None:
    from hydra._internal.utils import create_config_search_path
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode

    from neobert.application import check_jobs
    from neobert.config.compose import SettingsLoader

    setup_globals()
    loader = SettingsLoader(create_config_search_path(str(conf_dir())))
    start = ["glue.pretrained_model_path=run", "glue.task_name=rte", f"hydra.sweep.dir={tmp_path}"]
    master = loader.load_configuration("config", [*words.split(), *start], RunMode.MULTIRUN)
    assert check_jobs(loader, master, str(tmp_path)) == jobs
