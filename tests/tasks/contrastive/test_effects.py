"""What a key of the command line does to a contrastive run. See ``make test-parity``."""

import csv
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from neobert.config.root import Config
from neobert.data.tokenizer import TokenizerInfo
from neobert.tasks import run
from neobert.tasks.contrastive.data import ContrastiveDataModule

Settings = Callable[..., Config]
QUIET = ("trainer.eval_strategy=no", "trainer.save_strategy=no", "trainer.max_steps=1")


@pytest.fixture(scope="session")
def first_losses() -> dict[str, float]:
    """What the first step of a run cost without any change, once it has run."""
    return {}


def rows_of(config: Config) -> list[dict[str, str]]:
    run(config)
    with (Path(config.trainer.output_dir) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def first_loss(settings: Settings, *words: str) -> float:
    """The loss of the first batch, before any update: the same weights and pairs each time."""
    (row,) = [row for row in rows_of(settings(*QUIET, *words)) if row.get("train/loss")]
    return float(row["train/loss"])


@pytest.mark.proves(
    "contrastive.temperature",
    "contrastive.hard_negative_weight",
    "contrastive.pooling",
    "contrastive.loss_type",
    "contrastive.hard_negatives",
)
@pytest.mark.parametrize(
    "word",
    [
        "contrastive.temperature=0.5",
        "contrastive.hard_negative_weight=3",
        "contrastive.pooling=cls",
        "contrastive.loss_type=supcon",
    ],
)
def test_the_key_changes_the_loss_of_the_same_batch(
    settings: Settings, first_losses: dict[str, float], word: str
) -> None:
    if not first_losses:
        first_losses["plain"] = first_loss(settings)
    assert first_loss(settings, word) != pytest.approx(first_losses["plain"], rel=1e-5)


@pytest.mark.proves("dataset.pretraining_prob")
def test_all_steps_are_pretraining_steps_where_the_probability_is_one(settings: Settings) -> None:
    words = ["dataset.pretraining_prob=1", "model.dropout_prob=0.1", "trainer.max_steps=4"]
    rows = rows_of(settings(*QUIET[:2], *words))
    assert sum(float(row.get("train/pretraining_batches") or 0) for row in rows) == 4
    assert not any(row.get("train/pairs") for row in rows)


@pytest.mark.proves("trainer.dataloader_num_workers")
@pytest.mark.parametrize("asked", [0, 1])
def test_so_many_processes_load_the_batches(
    settings: Settings, info: TokenizerInfo, asked: int
) -> None:
    before = set(multiprocessing.active_children())
    config = settings(*QUIET[:2], f"trainer.dataloader_num_workers={asked}")
    data = ContrastiveDataModule(config, info)
    data.setup("fit")
    batches = iter(data.train_dataloader())
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == asked
    for _ in batches:
        pass
