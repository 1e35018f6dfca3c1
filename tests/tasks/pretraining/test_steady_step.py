"""A step between two log lines reads nothing back from the device: a GPU's queue never runs empty.

On a CPU nothing waits, so each read is counted where PyTorch makes it: ``item()``, ``int()``,
``float()`` and ``bool()`` of a tensor come to ``aten::_local_scalar_dense`` on every device.
"""

from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.tasks import run as run_task
from neobert.training.callbacks.train_metrics import TrainMetrics
from tests.tasks.conftest import Watch

from .conftest import TINY

STEADY = (
    "trainer.max_steps=8",
    "trainer.logging_steps=100",
    "trainer.eval_strategy=no",
    "trainer.save_strategy=no",
    "trainer.gradient_clipping=1.0",
    "trainer.log_grad_norm=true",
)


@pytest.mark.parametrize(
    "words",
    [
        ("optimizer=adamw",),
        ("optimizer=adamw", "trainer.gradient_accumulation_steps=2", "trainer.max_steps=4"),
        ("optimizer=adamw", "trainer.log_train_accuracy=true", "datacollator.pack_sequences=true"),
        ("optimizer=muonclip", "optimizer.muon_config.clipping_interval=2"),
        ("optimizer=adamw", "model.ngpt=true"),
    ],
)
def test_pretraining(
    watch: Watch, tiny_corpus: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    own = (f"dataset.path={tiny_corpus / 'corpus.txt'}", f"trainer.output_dir={tmp_path / 'run'}")
    cache = f"dataset.cache_dir={tiny_corpus / 'cache'}"
    run_task(compose_config([*TINY, *own, cache, *STEADY, *words]))
    assert watch.reads.places == []


def test_a_read_is_noticed(
    watch: Watch, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running numbers of the progress bar are read where they are shown."""
    original = TrainMetrics.on_train_batch_end

    def reading(self, trainer, pl_module, outputs, batch, batch_idx):
        original(self, trainer, pl_module, outputs, batch, batch_idx)
        self.running(pl_module)

    monkeypatch.setattr(TrainMetrics, "on_train_batch_end", reading)
    own = (f"dataset.path={tiny_corpus / 'corpus.txt'}", f"trainer.output_dir={tmp_path / 'run'}")
    cache = f"dataset.cache_dir={tiny_corpus / 'cache'}"
    run_task(compose_config([*TINY, *own, cache, *STEADY]))
    assert any("train_metrics.py" in place for place in watch.reads.places)
