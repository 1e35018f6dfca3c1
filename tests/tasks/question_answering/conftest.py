"""Questions whose answers are words after a marker, and runs on them that take seconds."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.tasks import run
from tests.tasks.glue.conftest import encoder_folder, write_splits

__all__ = ["encoder_folder", "write_splits"]

FILLERS = ["the", "a", "was", "is", "very", "not"]
Answered = Callable[..., Path]
Row = dict[str, object]


def questions(count: int, seed: int, unanswerable: float = 0.0, words: int = 8) -> list[Row]:
    """The answer to every question is ``good film``, where the context has it."""
    draw, rows = random.Random(seed), []
    for number in range(count):
        fillers = [draw.choice(FILLERS) for _ in range(draw.randint(words // 2, words))]
        texts, starts = [], []
        if draw.random() >= unanswerable:
            place = draw.randint(0, len(fillers))
            starts = [len(" ".join([*fillers[:place], ""]))]
            texts = ["good film"]
            fillers[place:place] = texts
        rows.append(
            {
                "id": f"q{seed}-{number}",
                "context": " ".join(fillers),
                "question": "was the film good",
                "answers": {"text": texts, "answer_start": starts},
            }
        )
    return rows


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    long = questions(15, 1, words=40)
    return write_splits(folder, train=questions(200, 0), validation=[*questions(15, 2), *long])


@pytest.fixture
def answer(encoder_folder: Path, rows_folder: Path, tmp_path: Path) -> Answered:
    """Fine-tune as the command line does; return the run's folder."""

    def train(*settings: str, folder: str = "run") -> Path:
        output = tmp_path / folder
        run(
            compose_config(
                [
                    "task=question_answering",
                    f"dataset.path={rows_folder}",
                    f"dataset.cache_dir={tmp_path / 'cache'}",
                    f"model.init_from={encoder_folder}",
                    "answers.max_seq_length=32",
                    "answers.stride=8",
                    "answers.max_question_length=8",
                    "answers.dropout=0",
                    "trainer.mixed_precision=no",
                    "trainer.disable_tqdm=true",
                    "trainer.per_device_train_batch_size=8",
                    "optimizer.lr=1e-2",
                    f"trainer.output_dir={output}",
                    *settings,
                ]
            )
        )
        return output

    return train
