"""When a run saves, what it keeps, and which checkpoint is its best.

Written as one callback, since Lightning's ``ModelCheckpoint`` saves before the evaluation of the
same step, knows no checksums, and counts retention per instance.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from neobert.config.trainer import TrainerConfig
from neobert.console import get_logger
from neobert.training.callbacks.interrupt import Interrupt, Interrupted
from neobert.training.checkpoint import set_aside_later
from neobert.training.checkpoint_thread import ThreadedCheckpointIO
from neobert.training.manifest import damages, list_checkpoints
from neobert.training.resume import realign

log = get_logger(__name__)


@dataclass(slots=True)
class Best:
    """The best evaluation so far."""

    metric: str | None
    greater_is_better: bool
    value: float | None = None
    step: int | None = None

    def improved_by(self, value: float) -> bool:
        """Any number beats none, also 0 and below; NaN beats nothing."""
        if math.isnan(value):
            return False
        if self.value is None:
            return True
        return value > self.value if self.greater_is_better else value < self.value


@dataclass(slots=True)
class SavePlan:
    """``trainer.save_*`` and the best-model keys, resolved to optimizer steps."""

    every: int | None
    """Save every so many steps; ``None``: not by steps."""

    at_best: bool
    """Save when an evaluation is the best so far."""

    at_end: bool
    """Save when training ends."""

    at_interrupt: bool
    """Save when a signal ends the run."""

    keep: int | None
    """Number of newest checkpoints to keep, the best one not counted; ``None`` keeps all."""

    best: Best = field(default_factory=lambda: Best(None, True))


class Checkpointer(Callback):
    """Saves ``checkpoints/<step>`` according to ``plan`` and deletes what need not be kept."""

    def __init__(
        self,
        plan: SavePlan,
        checkpoints: Path,
        checkpoint_io: ThreadedCheckpointIO,
        interrupt: Interrupt,
    ) -> None:
        self.plan = plan
        self.best = plan.best
        self.checkpoints = checkpoints
        self.checkpoint_io = checkpoint_io
        self.interrupt = interrupt
        self._saved_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            set_aside_later(self.checkpoints, trainer.global_step)
        self._forget_lost_best()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # a checkpoint amid an accumulation window would lose its gradients
        if not evaluates_after(trainer, batch_idx):
            self._save_or_stop(trainer, self._is_due(trainer))
        # else on_validation_end saves, so that a checkpoint knows its own evaluation

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            if trainer.global_step == self._saved_step:
                self._note_best(trainer)  # the evaluation after training, of saved weights
            return
        is_best = self._note_best(trainer)
        self._save_or_stop(trainer, self._is_due(trainer) or (is_best and self.plan.at_best))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        never_best = self.plan.at_best and self.best.step is None
        if (self.plan.at_end or never_best) and self._saved_step != trainer.global_step:
            self._save(trainer)
        self._finish_save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.checkpoint_io.finish()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        checkpoint["accumulation"] = trainer.accumulate_grad_batches

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        realign(checkpoint, trainer.accumulate_grad_batches)

    def state_dict(self) -> dict[str, object]:
        return {"best_value": self.best.value, "best_step": self.best.step}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self.best.value = state_dict["best_value"]  # type: ignore[assignment]
        self.best.step = state_dict["best_step"]  # type: ignore[assignment]

    def _forget_lost_best(self) -> None:
        """After a resume the best one may be gone: deleted for a later one, or in another run."""
        if self.best.step is None or (self.checkpoints / str(self.best.step)).is_dir():
            return
        if self.plan.at_best:
            log.warning(
                "the best checkpoint, of step %d, is not in %s: the best from here on counts",
                *(self.best.step, self.checkpoints),
            )
            self.best.value = self.best.step = None

    def _is_due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        if self.plan.at_end and step == trainer.max_steps:
            return True
        return self.plan.every is not None and step % self.plan.every == 0

    def _save_or_stop(self, trainer: Trainer, due: bool) -> None:
        self.checkpoint_io.check()
        stop = self.interrupt.agreed(trainer)
        if due or (stop and self.plan.at_interrupt):
            self._save(trainer)
        if stop:
            self._finish_save(trainer)
            raise Interrupted(trainer.global_step, saved=self._saved_step == trainer.global_step)

    def _note_best(self, trainer: Trainer) -> bool:
        if self.best.metric is None:
            return False
        value = trainer.callback_metrics.get(self.best.metric)
        if value is None:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise KeyError(
                f"trainer.metric_for_best_model={self.best.metric} was not logged; "
                f"the evaluation has: {known}"
            )
        if not self.best.improved_by(float(value)):
            return False
        self.best.value, self.best.step = float(value), trainer.global_step
        return True

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step
        best = self.checkpoints / str(self.best.step)
        then = partial(self._delete_old, best)
        trainer.save_checkpoint(self.checkpoints / str(step), storage_options=then)
        self._saved_step = step
        log.debug("saving %s", self.checkpoints / str(step))

    def _finish_save(self, trainer: Trainer) -> None:
        """Return when the latest checkpoint is on disk, on every rank."""
        self.checkpoint_io.wait()
        trainer.strategy.barrier("checkpoint written")

    def _delete_old(self, best: Path) -> None:
        """Delete the oldest beyond ``plan.keep``: never ``best``, nor the last good one."""
        if self.plan.keep is None:
            return
        others = [folder for folder in list_checkpoints(self.checkpoints) if folder != best]
        newest = others[-self.plan.keep :]
        if newest and all(damages(folder, contents=False) for folder in newest):
            log.warning("no checkpoint is deleted: the newest ones are damaged")
            return
        for folder in others[: -self.plan.keep]:
            self.checkpoint_io.remove_checkpoint(folder)


def evaluates_after(trainer: Trainer, batch_idx: int) -> bool:
    """Tell whether Lightning evaluates after this micro-batch."""
    if not trainer.enable_validation or trainer.val_check_batch is None:
        return False
    if trainer.val_check_batch == float("inf"):
        return False
    return (batch_idx + 1) % int(trainer.val_check_batch) == 0


def save_plan(config: TrainerConfig, steps_per_epoch: int, score: str | None = None) -> SavePlan:
    """Translate the ``trainer.save_*`` and best-model keys.

    ``score`` is the task's own metric for the best model, better when larger.
    """
    every: int | None = None
    if config.save_strategy == "steps" and config.save_steps > 0:
        every = config.save_steps
    elif config.save_strategy == "epoch":
        every = steps_per_epoch
    saves = config.save_model and config.save_strategy != "no"
    wants_best = config.save_strategy == "best" or config.load_best_model_at_end
    metric = config.metric_for_best_model
    greater = config.greater_is_better
    if metric is None and score is not None:
        metric, greater = score, True
    elif metric is None and (wants_best or config.early_stopping > 0):
        metric, greater = "eval/loss", False
    elif metric is not None and "/" not in metric:
        metric = f"eval/{metric.removeprefix('eval_')}"
    keep = config.save_total_limit or None
    return SavePlan(
        every=every if saves else None,
        at_best=saves and wants_best,
        at_end=saves and config.save_strategy != "best",
        at_interrupt=saves,
        keep=keep,
        best=Best(metric, greater),
    )
