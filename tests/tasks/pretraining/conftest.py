"""A tiny run on a tiny corpus: what the tests of the ``trainer`` section are made of."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.tasks import run

TINY = (
    "dataset=local",
    "dataset.num_workers=0",
    "dataset.max_seq_length=32",
    "dataset.validation_split=0.2",
    "tokenizer.train_vocab_size=128",
    "model.hidden_size=16",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "model.intermediate_size=24",
    "trainer.per_device_train_batch_size=4",
    "trainer.max_steps=4",
    "trainer.logging_steps=2",
    "trainer.eval_steps=2",
    "trainer.save_steps=2",
    "trainer.mixed_precision=no",
    "trainer.disable_tqdm=true",
    "scheduler.warmup_steps=1",
    "optimizer.lr=1e-2",
)
WORDS = "the a river runs north of mountain border which export rice oil and coal to island".split()  # noqa: SIM905
DOCUMENTS = 60

TinyRun = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of a document a line, and the cache that all tiny runs share."""
    folder = tmp_path_factory.mktemp("tiny")
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(5, 20))) for _ in range(DOCUMENTS)]
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n")
    return folder


def _runs_in(tiny_corpus: Path, parent: Path) -> TinyRun:
    """Train as the command line does, a few steps; return the run's folder."""

    def train(*overrides: str, folder: str = "run") -> Path:
        output = parent / folder
        words = [
            *TINY,
            f"dataset.path={tiny_corpus / 'corpus.txt'}",
            f"dataset.cache_dir={tiny_corpus / 'cache'}",
            f"trainer.output_dir={output}",
            *overrides,
        ]
        run(compose_config(words))
        return output

    return train


@pytest.fixture
def tiny_run(tiny_corpus: Path, tmp_path: Path) -> TinyRun:
    """Trains into the test's own folder."""
    return _runs_in(tiny_corpus, tmp_path)


@pytest.fixture(scope="module")
def tiny_run_module(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Trains into a folder of the module, for runs that several tests look at."""
    return _runs_in(tiny_corpus, tmp_path_factory.mktemp("runs"))
