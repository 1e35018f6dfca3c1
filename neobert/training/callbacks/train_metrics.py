"""Training metrics, exact over the tokens of the logging window and over all ranks.

A training step returns, beside ``loss``, the sums that its task wants to see: a dict of tensors or
numbers under ``sums``. They add up on the device and meet the host every ``trainer.logging_steps``
updates. The task says in ``LightningModule.train_metrics(sums)`` what it makes of them.
"""

import math
import time
from collections.abc import Mapping
from typing import Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from neobert.training.logger import log_metrics

Sums = Mapping[str, Tensor | float]


class ReportsSums(Protocol):
    """What a module must offer to have its sums logged."""

    def train_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of a logging window from its sums over all ranks."""


class TrainMetrics(Callback):
    """Logs ``train/*`` every ``every`` updates and remembers the tokens of the whole run."""

    def __init__(self, every: int, weight_norm: bool = False) -> None:
        self.every = every
        self.weight_norm = weight_norm
        self.tokens = 0
        """Tokens of text trained on so far, padding not counted, all ranks."""

        self.seconds = 0.0
        """Seconds of training so far, evaluation and saving of other callbacks not counted."""

        self.latest: dict[str, float] = {}
        """What was logged last; the progress bar shows it."""

        self.logged_at = -1
        """Step of the last log line."""

        self._sums: dict[str, Tensor | float] = {}
        self._carried_tokens = 0.0
        self._last_step = 0
        self._last_time = 0.0
        self._pause = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        self._last_time = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time spent on evaluation is not training time."""
        self._last_time += time.perf_counter() - self._pause

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        for name, value in cast(dict[str, Sums], outputs)["sums"].items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        if step > self._last_step and due:
            self._log(trainer, pl_module, step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that is stopped early ends amid a window."""
        if trainer.global_step > self._last_step and self._sums:
            self._log(trainer, pl_module, trainer.global_step)

    def running(self, module: LightningModule) -> dict[str, float]:
        """Metrics of this rank since the last log line, for the eye; a copy from the device."""
        sums = {name: float(value) for name, value in self._sums.items()}
        if not sums:
            return self.latest
        seconds = time.perf_counter() - self._last_time
        speed = (sums["tokens"] - self._carried_tokens) / max(seconds, 1e-9)
        metrics = cast(ReportsSums, module).train_metrics(sums)
        return {**self.latest, **metrics, "train/tokens_per_sec": speed}

    def _log(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        sums = self._over_ranks(trainer)
        seconds = time.perf_counter() - self._last_time
        self.tokens += int(sums["tokens"])
        self.seconds += seconds
        metrics = cast(ReportsSums, module).train_metrics(sums)
        metrics["train/tokens"] = float(self.tokens)
        metrics["train/tokens_per_sec"] = (sums["tokens"] - self._carried_tokens) / seconds
        metrics["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        if self.weight_norm:
            metrics["train/weight_norm"] = weight_norm(module)
        self._sums, self._carried_tokens = {}, 0.0
        self._last_step, self._last_time = step, time.perf_counter()
        self.latest, self.logged_at = metrics, step
        log_metrics(trainer, metrics)
        loss = metrics.get("train/loss", 0.0)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss} at step {step}; resume from an earlier checkpoint "
                "with trainer.gradient_clipping=1.0, or with a lower optimizer.lr and "
                "trainer.accept_changes=[optimizer.lr]"
            )

    def _over_ranks(self, trainer: Trainer) -> dict[str, float]:
        device = trainer.strategy.root_device
        names = sorted(self._sums)
        local_sums = torch.stack(
            [torch.as_tensor(self._sums[name], dtype=torch.float64).to(device) for name in names]
        )
        everywhere = trainer.strategy.reduce(local_sums, reduce_op="sum")
        return dict(zip(names, torch.as_tensor(everywhere).tolist(), strict=True))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Keep the tokens so far, and the sums of the window that the next log line completes."""
        sums = self._over_ranks(trainer) if self._sums else {}
        checkpoint["train_metrics"] = {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "sums": sums,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        saved = cast(dict[str, object], checkpoint["train_metrics"])
        self.tokens = cast(int, saved["tokens"])
        self.seconds = cast(float, saved["seconds"])
        if trainer.is_global_zero:  # the sums are those of all ranks already
            self._sums = dict(cast(dict[str, float], saved["sums"]))
            self._carried_tokens = float(self._sums.get("tokens", 0.0))


def weight_norm(module: torch.nn.Module) -> float:
    """L2 norm of all trainable parameters together."""
    norms = [parameter.detach().norm() for parameter in module.parameters()]
    return float(torch.stack(norms).norm())
