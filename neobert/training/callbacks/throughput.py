"""How fast a run is and what holds it up: MFU, FLOPs per token, waiting for data, cores, memory.

MFU (PaLM, arXiv 2204.02311, appendix B) is the share of the hardware's matrix rate that the model
itself needed: padding, recomputation and everything without a matrix product lower it.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    PassThroughProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from torch import Tensor, nn

from neobert.batch import PackedBatch
from neobert.console import get_logger
from neobert.model.encoder import Encoder
from neobert.model.flops import Flops, training_flops
from neobert.training.callbacks.train_metrics import TrainMetrics
from neobert.training.logger import log_metrics
from neobert.training.peak import Peak, find_peak
from neobert.training.summary import peak_memory_mib

log = get_logger(__name__)

PROFILE = "profile"
"""Folder and name of what a profiler writes in a run's folder."""


class Waits(Profiler):
    """Measures, beside another profiler, how long the training loop waits for its next batch and
    for saves."""

    data = 0.0
    """Seconds so far that it waited for batches."""

    save = 0.0
    """Seconds so far that it waited for checkpoints."""

    _data_since = _save_since = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self._data_since = time.perf_counter()
        elif action_name == "save_checkpoint":
            self._save_since = time.perf_counter()
        super().start(action_name)  # type: ignore[safe-super]

    def stop(self, action_name: str) -> None:
        super().stop(action_name)  # type: ignore[safe-super]
        if action_name.endswith("train_dataloader_next"):
            self.data += time.perf_counter() - self._data_since
        elif action_name == "save_checkpoint":
            self.save += time.perf_counter() - self._save_since


class _WaitOnly(Waits, PassThroughProfiler):
    pass


class _Simple(Waits, SimpleProfiler):
    pass


class _Advanced(Waits, AdvancedProfiler):
    pass


class _PyTorch(Waits, PyTorchProfiler):
    pass


def build_profiler(kind: str | None, folder: Path) -> Waits:
    """The profiler of ``trainer.profiler``, which writes into ``folder``."""
    match kind:
        case "simple":
            return _Simple(folder, PROFILE)
        case "advanced":
            return _Advanced(folder, PROFILE)
        case "pytorch":
            return _PyTorch(folder, PROFILE)
        case _:
            return _WaitOnly()


class Throughput(Callback):
    """Adds ``train/mfu`` and related metrics to each of ``metrics``' log lines, for this rank.

    Stands after ``metrics`` among the callbacks. It counts what the encoder is given while it
    trains, so it serves every task.
    """

    def __init__(self, metrics: TrainMetrics, waits: Waits | None = None) -> None:
        """``waits``: the profiler of the Trainer, which alone sees when training waits."""
        self.metrics, self.waits = metrics, waits or _WaitOnly()

        self.peak: Peak | None = None
        self._cost: Flops | None = None
        self._tokens = self._targets = self._states = 0.0
        self._states_of_targets = False
        """Whether the encoder was asked, in this micro-batch, for the states of targets alone."""

        self._pairs: Tensor | float = 0.0
        self._logged_at = -1
        self._seconds = self._processor = self._pause = 0.0
        self._waited = self._saved = 0.0
        self._peak_memory = 0.0
        self._all_flops = self._all_tokens = self._all_seconds = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.peak = find_peak(trainer.strategy.root_device, str(trainer.precision))
        encoders = [part for part in pl_module.modules() if isinstance(part, Encoder)]
        if encoders:
            self._cost = training_flops(encoders[0])
            encoders[0].register_forward_pre_hook(self._count)
        if self.peak is None:
            log.info("MFU is not shown: the peak rate of this device is not known")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not before: FSDP2 and DeepSpeed restore a checkpoint, with the seconds so far, after
        # `on_fit_start`.
        self._seconds = self.metrics.seconds
        self._processor = time.process_time()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        sums = cast(dict[str, Mapping[str, Tensor | float]], outputs)["sums"]
        targets = float(cast(float, sums.get("targets", 0)))
        self._targets += targets
        if self._states_of_targets:
            self._states, self._states_of_targets = self._states + targets, False
        self._log_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that is stopped early ends amid a window."""
        self._log_if_due(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause = time.process_time()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluation is not training: it counts neither here nor in ``metrics``' seconds."""
        self._processor += time.process_time() - self._pause

    def summary(self) -> dict[str, object]:
        """For ``summary.json``: over everything trained by this process."""
        seconds = max(self._all_seconds, 1e-9)
        figures: dict[str, object] = {
            "flops_per_token": self._all_flops / max(self._all_tokens, 1.0),
            "tflops_per_sec": self._all_flops / seconds / 1e12,
            "data_wait": self._waited / seconds,
            "save_wait": self._saved / seconds,
            "peak_memory_mib": round(self._peak_memory, 1),
        }
        if self.peak is not None:
            figures["mfu"] = self._all_flops / seconds / self.peak.flops
            figures["peak_tflops_per_sec"] = self.peak.flops / 1e12
            figures["peak_source"] = self.peak.source
        return figures

    def _count(self, module: nn.Module, inputs: tuple[PackedBatch, Tensor | None]) -> None:
        recomputes = torch._C._current_graph_task_id() != -1  # within a backward pass: GradCache
        if module.training and not recomputes:
            self._tokens += inputs[0].num_tokens
            if len(inputs) > 1 and inputs[1] is not None:
                self._states_of_targets = True
            else:
                self._states += inputs[0].num_tokens
            # Stays on the device until a line is logged.
            self._pairs = self._pairs + pairs_of_text(inputs[0], cast(int, module.pad_token_id))

    def _log_if_due(self, trainer: Trainer) -> None:
        if self.metrics.logged_at == trainer.global_step != self._logged_at:
            self._logged_at = trainer.global_step
            self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        seconds = self.metrics.seconds - self._seconds
        waited, saved = self.waits.data - self._waited, self.waits.save - self._saved
        processor = time.process_time() - self._processor
        flops, self._peak_memory = 0.0, _memory(trainer)
        metrics = {
            "train/data_wait": waited / seconds,
            "train/save_wait": saved / seconds,
            "train/cores_busy": processor / seconds,
            "train/peak_memory_mib": self._peak_memory,
        }
        if self._cost is not None and self._tokens:
            flops = self._cost.of(self._tokens, float(self._pairs), self._targets, self._states)
            metrics["train/flops_per_token"] = flops / self._tokens
            if self.peak is not None:
                metrics["train/mfu"] = flops / seconds / self.peak.flops
        self._all_flops += flops
        self._all_tokens += self._tokens
        self._all_seconds += seconds
        self._seconds = self.metrics.seconds
        self._waited, self._saved = self.waits.data, self.waits.save
        self._processor += processor
        self._tokens = self._targets = self._states = self._pairs = 0.0
        self.metrics.latest.update(metrics)
        log_metrics(trainer, metrics)


def pairs_of_text(batch: PackedBatch, pad_token_id: int) -> Tensor | float:
    """Pairs of tokens of one document; the documents of pad ids do not count."""
    if not batch.num_tokens:
        return 0.0
    first = batch.cu_seqlens[:-1].clamp(max=len(batch.input_ids) - 1)
    is_text = batch.input_ids[first] != pad_token_id  # (S,)
    return (batch.lengths.double().square() * is_text).sum()


def _memory(trainer: Trainer) -> float:
    """Peak memory in MiB: of the GPU where there is one, else of this process."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory_mib()
