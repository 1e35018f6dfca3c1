"""What the console shows while a run trains: a bar on a terminal, a line per log step elsewhere."""

import re
import sys
import time
from collections.abc import Iterator

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from neobert.console import get_logger
from neobert.training.callbacks.train_metrics import TrainMetrics

log = get_logger(__name__)

REFRESH = 3.0
"""Seconds between two readings of the device for the numbers beside the bar."""

SIGN_OF_LIFE = 10.0
"""Seconds of an evaluation after which it reports how far it is."""

SLOW = 6 * 3600.0
"""Seconds that a run on a CPU may take without a hint."""


class BarAboveNumbers(Progress):
    """The numbers have a line of their own: beside the bar, 80 columns break them into five."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["numbers"])


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
        self._started = self._evaluated_at = 0.0
        self._first_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._first_step = time.monotonic(), trainer.global_step
        if not trainer.is_global_zero or not self._bar:
            return
        self._progress = BarAboveNumbers(
            TextColumn("training"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
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
        if step == self._first_step + 1:
            self._warn_of_days(trainer)
        if self._progress is not None:
            numbers = self._fresh_numbers(pl_module, step)
            self._progress.update(self._task, completed=step, numbers=numbers)
        elif self.metrics.logged_at == step and self._logged_at != step:
            self._logged_at = step
            log.info("step %d/%d  %s", step, trainer.max_steps, _describe(self.metrics.latest))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluated_at = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        now = time.monotonic()
        if trainer.is_global_zero and now - self._evaluated_at > SIGN_OF_LIFE:
            self._evaluated_at = now
            self._print(f"evaluating: batch {batch_idx + 1} of {self._batches(trainer)}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.state.fn == "fit":
            numbers = {key: float(value) for key, value in trainer.callback_metrics.items()}
            shown = {key: numbers[key] for key in sorted(numbers) if key.startswith("eval/")}
            self._print(f"step {trainer.global_step}  {_describe(shown)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _print(self, line: str) -> None:
        if self._progress is None:
            log.info("%s", line)
        else:  # above the bar, not into it
            self._progress.console.print(line, markup=False, highlight=False)

    @staticmethod
    def _batches(trainer: Trainer) -> str:
        counts = trainer.num_val_batches
        return str(int(sum(counts) if isinstance(counts, list) else counts))

    def _warn_of_days(self, trainer: Trainer) -> None:
        """Say once, by the time of the first step, that a CPU would take very long."""
        remaining = (time.monotonic() - self._started) * (trainer.max_steps - self._first_step)
        if trainer.strategy.root_device.type == "cpu" and remaining > SLOW:
            self._print(
                f"at the speed of the first step this run takes {remaining / 86400:.1f} days on "
                "this CPU; model=neobert_tiny, or experiment=quickstart, is made for one"
            )

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
    "eval/bits_per_byte": "{:.4f} bits per byte",
    "eval/accuracy": "eval accuracy {:.1%}",
}
ONLY_IN_FILES = re.compile(r"eval/(batches|perplexity.*|(bits_per_byte|accuracy)[/@].*)")
"""Metrics that the console leaves out: of the sources of a mixture, it shows the loss."""


def _describe(metrics: dict[str, float]) -> str:
    known = [form.format(metrics[name]) for name, form in SHOWN.items() if name in metrics]
    others = [
        f"{name.removeprefix('eval/')} {value:.4f}"
        for name, value in metrics.items()
        if name.startswith("eval/") and name not in SHOWN and not ONLY_IN_FILES.fullmatch(name)
    ]
    return "  ".join(known + others)
