"""Ctrl-C and SIGTERM end a run in order: finish the step, save, say how to resume.

The process then exits with 75 (:class:`neobert.errors.ExitCode`), on which a scheduler can requeue.
A second Ctrl-C stops at once, without a checkpoint.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer

from neobert.console import get_logger
from neobert.data.loader import sum_over_ranks

log = get_logger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818 - it ends a run in order, it is no error
    """The run was interrupted; ``step`` is the last finished one, ``saved`` if saving is on."""

    def __init__(self, step: int, saved: bool) -> None:
        super().__init__(f"interrupted after step {step}")
        self.step, self.saved = step, saved


class Interrupt(Callback):
    """Notes the signal; ``Checkpointer`` asks after each step, saves and raises ``Interrupted``."""

    def __init__(self) -> None:
        self.requested = False
        """A signal has reached this process or, after a step, any of them."""

        self._votes: Callable[[], list[int]] | None = None
        """Begins to count, after a step, the ranks that were signalled."""

        self._previous: dict[signal.Signals, object] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._process = os.getpid()
        if trainer.world_size > 1:
            # Lightning asks the first rank before each micro-batch, and waits for the device.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        # After Lightning has set its own handlers, which would broadcast from within a handler.
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)

    def agreed(self, trainer: Trainer) -> bool:
        """Tell whether any rank was signalled: of several, before the latest step, so that no rank
        waits for the others. Every rank has to ask, after the same step."""
        if trainer.world_size == 1:
            return self.requested
        before, self._votes = self._votes, sum_over_ranks([int(self.requested)])
        return before is not None and before()[0] > 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader process, which Ctrl-C reaches too: the run still needs its batches
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("%s: finishing this step, then saving", signal.Signals(number).name)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()
