"""The learning rate of a run with stages: the schedule, and the stages that have their own rate."""

from collections.abc import Sequence
from dataclasses import replace

from neobert.config.scheduler import SchedulerConfig
from neobert.data.stages import Stage
from neobert.optim.schedule import LrStage, Schedule, resolve_schedule


def staged_schedule(config: SchedulerConfig, total_steps: int, stages: Sequence[Stage]) -> Schedule:
    """``scheduler.*`` over ``total_steps``, with ``stages[i].lr`` where it is set."""
    own = tuple(
        LrStage(stage.first_step, stage.end_step, stage.lr_ratio, stage.decay, stage.final_ratio)
        for stage in stages
        if stage.lr_ratio is not None
    )
    return replace(resolve_schedule(config, total_steps), stages=own)
