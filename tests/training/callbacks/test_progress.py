import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader

from neobert.training.callbacks.progress import BarAboveNumbers, ProgressBar
from neobert.training.callbacks.train_metrics import TrainMetrics
from neobert.training.trainer import quiet_libraries

NUMBERS = {
    "train/loss": 5.1234,
    "train/tokens_per_sec": 6823.0,
    "train/mfu": 0.701,
    "train/flops_per_token": 3.21e7,
    "train/data_wait": 0.02,
    "train/peak_memory_mib": 1060.0,
}
CONTROL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Colours and the moves of the cursor, which a terminal does not show."""

WORDS = "5.1234  6,823 tokens/s  MFU 70.1%  3.21e+07 FLOP/token  data wait 2%  1,060 MiB"


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: object, batch_idx: int) -> torch.Tensor:
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def show(tmp_path) -> None:
    """Two steps, the second of which logs."""
    quiet_libraries()
    metrics = TrainMetrics(every=2)
    metrics.latest, metrics.logged_at = NUMBERS, 2
    Trainer(
        accelerator="cpu",
        max_steps=2,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ProgressBar(metrics, bar=True)],
    ).fit(Module(), DataLoader(range(2)))


def test_without_a_terminal_a_line_says_how_fast_the_run_is(tmp_path, caplog) -> None:
    with caplog.at_level("INFO", "neobert"):
        show(tmp_path)
    (line,) = [record.message for record in caplog.records if record.name.startswith("neobert")]
    assert line.startswith("step 2/2 ")
    for shown in WORDS.split("  "):
        assert shown in line


@pytest.mark.parametrize("width", [80, 160])
def test_the_bar_shows_all_of_it_however_narrow_the_terminal(
    tmp_path, monkeypatch, capsys, width
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    show(tmp_path)
    written = CONTROL_CODES.sub(" ", capsys.readouterr().err).split()
    for word in (*WORDS.split(), "2/2", "ETA"):
        assert word in written


def test_the_bar_takes_three_lines_at_80_columns() -> None:
    console = Console(width=80, force_terminal=True)
    bar = BarAboveNumbers(*Progress.get_default_columns(), console=console)
    bar.add_task("training", total=2, numbers=WORDS)
    with console.capture() as captured:
        console.print(bar.get_renderable())
    assert len(captured.get().strip().splitlines()) <= 3


def test_a_long_evaluation_says_how_far_it_is(caplog, monkeypatch) -> None:
    monkeypatch.setattr("neobert.training.callbacks.progress.SIGN_OF_LIFE", 0.0)
    trainer = SimpleNamespace(is_global_zero=True, num_val_batches=[4])
    bar = ProgressBar(TrainMetrics(every=1), bar=False)
    with caplog.at_level("INFO", "neobert"):
        bar.on_validation_start(trainer, None)
        bar.on_validation_batch_end(trainer, None, None, None, 1)
    assert "evaluating: batch 2 of 4" in caplog.text
