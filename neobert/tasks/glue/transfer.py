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


@dataclass(frozen=True, slots=True)
class SourceRun:
    """A finished run of the source task that kept its weights."""

    folder: str
    checkpoint: Path
    score: float


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
        checkpoint = _checkpoint(folder, best if isinstance(best, dict) else {})
        if isinstance(score, float) and checkpoint is not None:
            runs.append(SourceRun(str(folder.absolute()), checkpoint, score))
    return runs


def _checkpoint(run: Path, best: dict[str, object]) -> Path | None:
    """Its best checkpoint, else its newest."""
    checkpoints = {
        int(checkpoint.name): checkpoint
        for checkpoint in numbered(run / "checkpoints")
        if has_weights(checkpoint)
    }
    step = best.get("step")
    if isinstance(step, int) and step in checkpoints:
        return checkpoints[step]
    return checkpoints[max(checkpoints)] if checkpoints else None
