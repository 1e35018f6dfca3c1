"""Transfer between tasks: the finished run of a source task, found by what it recorded.

Start of RTE, MRPC, STS-B from an MNLI model: Liu et al. 2019 (RoBERTa, arXiv 1907.11692).
"""

from dataclasses import dataclass
from pathlib import Path

from neobert.config.overrides import pasteable
from neobert.config.root import Config
from neobert.errors import ConfigError
from neobert.files import summaries_below, user_path
from neobert.model.weight_files import has_weights
from neobert.training.manifest import numbered
from neobert.training.start import best_step, select


@dataclass(frozen=True, slots=True)
class SourceRun:
    """A finished run of the source task that kept its weights."""

    folder: str
    score: float
    best: int | None
    """Step of the best evaluation, by the run's summary."""

    @property
    def checkpoint(self) -> Path:
        """Its best checkpoint if that was kept, else the newest undamaged one.

        If the best is damaged and the newest, it is the best until the newest undamaged one.
        """
        newest = select(self.folder, key="glue.transfer_from_task")
        # The summary counts the evaluation after training too, which no checkpoint records.
        for step in (self.best, best_step(newest)):
            if step is not None and step <= int(newest.name):
                best = newest.parent / str(step)
                if best.is_dir():
                    return best
        return newest


def source_run(config: Config, source: str) -> SourceRun:
    """The best finished run of the task ``source`` below ``glue.transfer_dir``.

    Raises ``ConfigError`` with the command that makes one if there is none.
    """
    own = Path(config.trainer.output_dir).absolute()
    place = user_path(config.glue.transfer_dir) if config.glue.transfer_dir else own.parent
    runs = [run for run in finished_runs(place, source) if Path(run.folder) != own]
    if not runs:
        task = config.glue.task_name
        raise ConfigError(
            f"glue.transfer_from_task: {task} starts from {source}, but {place} holds no "
            f"finished run of {source} with a checkpoint. This makes one: "
            f"python -m neobert.train task=glue glue.task_name={source} "
            f"trainer.save_strategy=best {pasteable('trainer.output_dir', place / source)} "
            "glue.pretrained_model_path=…; or name its folder: glue.transfer_dir"
        )
    return max(runs, key=lambda run: run.score)


def finished_runs(place: Path, task: str) -> list[SourceRun]:
    """Runs of ``task`` below ``place`` that ended and kept weights, by the task they recorded."""
    runs = []
    for folder, summary in summaries_below(place):
        if (summary.get("task"), summary.get("task_name")) != ("glue", task):
            continue
        score, best = summary.get("score"), summary.get("best")
        step = best.get("step") if isinstance(best, dict) else None
        if isinstance(score, float) and any(map(has_weights, numbered(folder / "checkpoints"))):
            step = step if isinstance(step, int) else None
            runs.append(SourceRun(str(folder.absolute()), score, step))
    return runs
