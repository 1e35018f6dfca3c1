"""What the console shows while a run trains: a bar on a terminal, a line per log step elsewhere."""

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from neobert.console import get_logger
from neobert.training.callbacks.train_metrics import TrainMetrics

log = get_logger(__name__)

REFRESH = 3.0
"""Seconds between two looks at the device for the numbers beside the bar."""


class ProgressBar(Callback):
    """Steps, time left, the latest loss, and how fast the run is."""

    def __init__(self, metrics: TrainMetrics, bar: bool) -> None:
        """``bar=False`` (``trainer.disable_tqdm``, or no terminal) writes lines instead."""
        self.metrics = metrics
        self._progress: Progress | None = None
        self._bar = bar and sys.stderr.isatty()
        self._logged_at = -1
        self._refreshed_at = 0.0
        self._numbers = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not self._bar:
            return
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            # Goes on in the next line where the terminal is narrow; the others would be cut off.
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=False)),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(
            "training", total=trainer.max_steps, completed=trainer.global_step, numbers=""
        )
        self._progress.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        if self._progress is not None:
            self._progress.update(
                self._task, completed=step, numbers=self._fresh_numbers(pl_module, step)
            )
        elif self.metrics.logged_at == step and self._logged_at != step:
            self._logged_at = step
            log.info("step %d/%d  %s", step, trainer.max_steps, _describe(self.metrics.latest))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.state.fn == "fit":
            numbers = {key: float(value) for key, value in trainer.callback_metrics.items()}
            shown = {key: numbers[key] for key in sorted(numbers) if key.startswith("eval/")}
            line = f"step {trainer.global_step}  {_describe(shown)}"
            if self._progress is None:
                log.info("%s", line)
            else:  # above the bar, not into it
                self._progress.console.print(line, markup=False, highlight=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _fresh_numbers(self, module: LightningModule, step: int) -> str:
        """The numbers beside the bar: those of the log line, else of the window so far."""
        now = time.monotonic()
        if self.metrics.logged_at == step:
            self._numbers, self._refreshed_at = _describe(self.metrics.latest), now
        elif now - self._refreshed_at > REFRESH:
            self._numbers, self._refreshed_at = _describe(self.metrics.running(module)), now
        return self._numbers

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


SHOWN = {
    "train/loss": "loss {:.4f}",
    "train/accuracy": "accuracy {:.1%}",
    "train/tokens_per_sec": "{:,.0f} tokens/s",
    "train/mfu": "MFU {:.1%}",
    "train/flops_per_token": "{:.3g} FLOP/token",
    "train/data_wait": "data wait {:.0%}",
    "train/peak_memory_mib": "{:,.0f} MiB",
    "train/grad_norm": "grad norm {:.3f}",
    "eval/loss": "eval loss {:.4f}",
    "eval/accuracy": "eval accuracy {:.1%}",
}


def _describe(metrics: dict[str, float]) -> str:
    known = [form.format(metrics[name]) for name, form in SHOWN.items() if name in metrics]
    others = [
        f"{name.removeprefix('eval/')} {value:.4f}"
        for name, value in metrics.items()
        if name.startswith("eval/") and name not in (*SHOWN, "eval/perplexity", "eval/batches")
    ]
    return "  ".join(known + others)
