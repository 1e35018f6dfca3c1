import time
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from neobert.batch import PackedBatch
from neobert.config.model import ModelConfig
from neobert.losses.mlm import masked_lm_loss
from neobert.model.flops import training_flops
from neobert.model.heads import MaskedLM
from neobert.training.callbacks.throughput import Throughput
from neobert.training.callbacks.train_metrics import TrainMetrics
from neobert.training.metrics_file import MetricsFile, read_metrics

CONFIG = ModelConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
)
DOCUMENTS = [[2, 5, 7, 3], [2, 4, 9, 8, 6, 3]]
WAIT = 0.05


class Slow(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        time.sleep(WAIT)
        return index


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = MaskedLM(CONFIG, 11, 0)

    def training_step(self, batch: object, batch_idx: int) -> dict[str, object]:
        padding = [CONFIG.pad_token_id] * 3  # as at the end of a packed row
        inputs = PackedBatch.from_documents([*DOCUMENTS, padding])
        inputs = replace(inputs, num_tokens=10)
        places, labels = torch.tensor([1, 5, 6]), torch.tensor([5, 4, 3])
        hidden = self.model.hidden(inputs, places)
        found = masked_lm_loss(hidden, self.model.decoder_weight, labels)
        sums = {"loss": found.sum.detach(), "targets": 3, "tokens": inputs.num_tokens}
        return {"loss": found.sum, "sums": sums}

    def train_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        return {"train/loss": sums["loss"] / sums["targets"]}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Resumed(Callback):
    """Seconds of an earlier run, restored when FSDP2 and DeepSpeed do it: after `on_fit_start`."""

    def __init__(self, metrics: TrainMetrics) -> None:
        self.metrics = metrics

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metrics.seconds = 1000.0


@pytest.fixture
def run(tmp_path) -> tuple[Throughput, list[dict[str, str]], Module]:
    metrics = TrainMetrics(every=2)
    throughput = Throughput(metrics)
    module = Module()
    Trainer(
        accelerator="cpu",
        max_steps=4,
        accumulate_grad_batches=2,
        default_root_dir=tmp_path,
        logger=MetricsFile(tmp_path / "metrics.csv"),
        log_every_n_steps=1,
        profiler=throughput.waits,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[metrics, throughput, Resumed(metrics)],
    ).fit(module, DataLoader(Slow()))
    return throughput, read_metrics(tmp_path / "metrics.csv"), module


def test_operations_are_those_of_the_documents(run) -> None:
    throughput, rows, module = run
    expected = training_flops(module.model.model).of(10.0, 4.0**2 + 6.0**2, 3.0, 3.0) / 10
    assert [row["step"] for row in rows] == ["2", "4"]
    for row in rows:
        assert float(row["train/flops_per_token"]) == pytest.approx(expected)
    assert throughput.summary()["flops_per_token"] == pytest.approx(expected)


def test_mfu_is_the_share_of_the_peak(run) -> None:
    throughput, rows, _ = run
    for row in rows:
        rate = float(row["train/tokens_per_sec"]) * float(row["train/flops_per_token"])
        # The two callbacks read the clock one after the other.
        assert float(row["train/mfu"]) == pytest.approx(rate / throughput.peak.flops, rel=0.01)
    assert throughput.metrics.latest["train/mfu"] == pytest.approx(float(rows[-1]["train/mfu"]))
    assert "measured" in throughput.summary()["peak_source"]


def test_waiting_for_data_is_told_from_work(run) -> None:
    throughput, rows, _ = run
    # Two steps of two micro-batches of ten tokens in a line, each waited for.
    for row in rows:
        seconds = 4 * 10 / float(row["train/tokens_per_sec"])
        assert 4 * WAIT / seconds <= float(row["train/data_wait"]) <= 1.0
    assert throughput.waits.data >= 8 * WAIT
    assert 0 < throughput.summary()["data_wait"] <= 1.0


def test_the_cores_at_work_are_counted(run) -> None:
    _, rows, _ = run
    for row in rows:
        # One thread, which sleeps while the data are awaited.
        assert 0 < float(row["train/cores_busy"]) < 1.1 - float(row["train/data_wait"])


def test_memory_is_in_the_log_and_the_summary(run) -> None:
    throughput, rows, _ = run
    logged = float(rows[-1]["train/peak_memory_mib"])
    assert logged > 50
    assert throughput.summary()["peak_memory_mib"] == pytest.approx(logged, abs=0.1)
