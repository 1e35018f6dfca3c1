"""The stages of a run, resolved: from which step to which, under which settings."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from neobert.config.root import Config
from neobert.config.stages import StageConfig, stage_ends, with_stage
from neobert.console import get_logger
from neobert.errors import ConfigError

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a run."""

    name: str
    first_step: int
    end_step: int
    """The first step that is not in the stage."""

    config: Config
    """The run's settings with the changes of the stage."""

    lr_ratio: float | None = None
    """Learning rate over ``optimizer.lr``; ``None``: by the schedule."""

    decay: str | None = None
    """Shape of a decay over the stage, from ``lr_ratio`` to ``final_ratio`` times it."""

    final_ratio: float = 0.0

    @property
    def steps(self) -> int:
        return self.end_step - self.first_step

    @property
    def accumulation(self) -> int:
        return self.config.trainer.gradient_accumulation_steps

    @property
    def micro_batches(self) -> int:
        return self.steps * self.accumulation

    def rows_per_step(self, ranks: int) -> int:
        """Rows of an optimizer step over all devices."""
        return self.config.trainer.per_device_train_batch_size * self.accumulation * ranks

    @property
    def data_settings(self) -> tuple[object, ...]:
        """What the rows of a stage are made by: where they are equal, one continues the other."""
        dataset = self.config.dataset
        shortest = dataset.min_length if dataset.filter_by_length else 0
        return (self.config.row_length(), dataset.max_seq_length, shortest)


def resolve_stages(config: Config, total_steps: int, ranks: int) -> tuple[Stage, ...]:
    """The stages of a run of ``total_steps`` on ``ranks`` devices; one if none are set.

    Raises ``ConfigError`` if they overlap or do not end.
    """
    if not config.stages and not config.trainer.batch_warmup_tokens:
        return (Stage("", 0, total_steps, config),)
    settings = config.stages or [StageConfig()]
    ends, problems = stage_ends(settings, total_steps)
    if problems:
        raise ConfigError(*problems)
    stages = []
    for number, (stage, end) in enumerate(zip(settings, ends, strict=True)):
        name, first = stage.name or str(number + 1), ends[number - 1] if number else 0
        ratio = None if stage.lr is None else stage.lr / config.optimizer.lr
        changed = with_stage(config, stage)
        stages.append(Stage(name, first, end, changed, ratio, stage.decay, stage.final_lr_ratio))
    if config.trainer.batch_warmup_tokens:
        stages = [*_batch_warm_up(stages[0], ranks), *stages[1:]]
    return tuple(_aligned(stages))


def stage_at(stages: tuple[Stage, ...], step: int) -> Stage:
    """The stage that a step is in; the last one's for steps after the run."""
    return next((stage for stage in stages if step < stage.end_step), stages[-1])


def _batch_warm_up(stage: Stage, ranks: int) -> Iterator[Stage]:
    """The first stage in parts of growing accumulation, each of as many tokens."""
    trainer, full = stage.config.trainer, stage.accumulation
    start = min(trainer.batch_warmup_start, full)
    levels = range(start, full)
    rows = trainer.per_device_train_batch_size * ranks
    first = stage.first_step
    for accumulation in levels:
        tokens = (trainer.batch_warmup_tokens or 0) / len(levels)
        steps = max(1, round(tokens / (rows * accumulation * stage.config.row_length())))
        end = min(first + steps, stage.end_step)
        if end > first:
            settings = replace(trainer, gradient_accumulation_steps=accumulation)
            config = replace(stage.config, trainer=settings)
            name = f"{stage.name}, {accumulation} of {full} micro-batches"
            yield replace(stage, name=name, first_step=first, end_step=end, config=config)
        first = end
    if first < stage.end_step:
        yield replace(stage, first_step=first)


def _aligned(stages: list[Stage]) -> Iterator[Stage]:
    """Move borders up until the micro-batches before one are a multiple of the accumulation after
    it: Lightning counts both from the start of the run."""
    done, first = 0, 0
    for number, stage in enumerate(stages):
        end = stage.end_step
        if number + 1 < len(stages):
            following = stages[number + 1].accumulation
            while (done + (end - first) * stage.accumulation) % following:
                end += 1
        if end != stage.end_step:
            log.info(
                "stage %s ends at step %d instead of %d: micro-batches before a stage are a "
                "multiple of its trainer.gradient_accumulation_steps",
                *(stage.name, end, stage.end_step),
            )
        if end > first:
            yield replace(stage, first_step=first, end_step=end)
            done, first = done + (end - first) * stage.accumulation, end
