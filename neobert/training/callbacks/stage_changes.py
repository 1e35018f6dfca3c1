"""Enters the stages of a run: what the Trainer and the encoder must know of each."""

from collections.abc import Sequence

import lightning.pytorch as pl
from torch import nn

from neobert.console import get_logger
from neobert.data.stages import Stage, stage_at
from neobert.model.encoder import Encoder

log = get_logger(__name__)


class EnterStages(pl.Callback):
    """Sets accumulation and rotary positions where a stage begins, also on resume.

    With several accumulations Lightning's interval between evaluations, which it counts in
    micro-batches, is no number of steps any more; so this decides after each step.
    """

    def __init__(self, stages: Sequence[Stage], eval_steps: int | None, step: int = 0) -> None:
        """``eval_steps``: optimizer steps between evaluations; ``None``: not by steps. ``step``:
        where the run starts."""
        self.step = step
        self.stages = tuple(stages)
        several = len({stage.accumulation for stage in stages}) > 1
        self.eval_steps = eval_steps if several else None
        self._current: Stage | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Before a checkpoint is loaded, whose place counts micro-batches.
        trainer.accumulate_grad_batches = stage_at(self.stages, self.step).accumulation

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._enter(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self._decide_evaluation(trainer, batch_idx, ends_step)
        if ends_step:
            self._enter(trainer, pl_module)

    def _decide_evaluation(self, trainer: pl.Trainer, batch_idx: int, ends_step: bool) -> None:
        if self.eval_steps is None:
            return
        # Lightning evaluates after batches whose number is a multiple of this one.
        is_due = ends_step and trainer.global_step % self.eval_steps == 0
        trainer.val_check_batch = batch_idx + 1 if is_due else batch_idx + 2

    def _enter(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stage = stage_at(self.stages, trainer.global_step)
        if stage is self._current:
            return
        self._current = stage
        trainer.accumulate_grad_batches = stage.accumulation
        enter_rope(pl_module, stage)
        if len(self.stages) > 1:
            trainer_settings = stage.config.trainer
            log.info(
                "step %d: stage %s until step %d: rows of %d, %d rows × %d micro-batches, "
                "rope_theta %g",
                *(trainer.global_step, stage.name, stage.end_step, stage.config.row_length()),
                *(trainer_settings.per_device_train_batch_size, stage.accumulation),
                stage.config.model.rope_theta,
            )


def enter_rope(module: nn.Module, stage: Stage) -> None:
    """Let the encoders of ``module`` compute positions as in ``stage``."""
    model = stage.config.model
    for encoder in (part for part in module.modules() if isinstance(part, Encoder)):
        encoder.set_rope(model.rope_theta, model.rope_scaling)
