"""Rows of words whose tags one word tells, and runs on them that take seconds."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.tasks import run
from tests.tasks.glue.conftest import encoder_folder, write_splits

__all__ = ["encoder_folder", "write_splits"]

FILLERS = ["the", "a", "was", "is", "very", "not"]
Train = Callable[..., Path]


def tagged(count: int, seed: int) -> list[dict[str, list[str]]]:
    """``good film`` is an entity of two words, ``bad`` one of a single word."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        words, tags = [], []
        for _ in range(draw.randint(1, 6)):
            kind = draw.random()
            if kind < 0.25:
                words += ["good", "film"]
                tags += ["B-PRO", "I-PRO"]
            elif kind < 0.5:
                words.append("bad")
                tags.append("B-CON")
            else:
                words.append(draw.choice(FILLERS))
                tags.append("O")
        rows.append({"tokens": words, "tags": tags})
    return rows


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagged")
    return write_splits(folder, train=tagged(200, 0), validation=tagged(40, 1), test=tagged(20, 2))


@pytest.fixture
def tag(encoder_folder: Path, rows_folder: Path, tmp_path: Path) -> Train:
    """Fine-tune as the command line does; return the run's folder."""

    def train(*settings: str, folder: str = "run") -> Path:
        output = tmp_path / folder
        run(
            compose_config(
                [
                    "task=token_classification",
                    f"dataset.path={rows_folder}",
                    f"dataset.cache_dir={tmp_path / 'cache'}",
                    f"model.init_from={encoder_folder}",
                    "tokens.max_seq_length=32",
                    "tokens.dropout=0",
                    "trainer.mixed_precision=no",
                    "trainer.disable_tqdm=true",
                    "trainer.num_train_epochs=2",
                    "trainer.per_device_train_batch_size=8",
                    "optimizer.lr=1e-2",
                    f"trainer.output_dir={output}",
                    *settings,
                ]
            )
        )
        return output

    return train
