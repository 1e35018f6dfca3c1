"""The tasks, unaware of each other."""

from importlib import import_module
from typing import TYPE_CHECKING

from neobert.config.root import Config
from neobert.errors import ConfigError

if TYPE_CHECKING:  # it imports Lightning
    from neobert.training.extras import Extras
    from neobert.training.run import TaskRun

RUNS = {
    "pretraining": "PretrainingRun",
    "glue": "GlueRun",
    "token_classification": "TokenRun",
    "question_answering": "AnswerRun",
    "contrastive": "ContrastiveRun",
}
"""Task that trains -> the class in its ``run.py`` that says what is special about its runs."""


def run(config: Config, extras: "Extras | None" = None) -> float | None:
    """Run the task that ``config`` names; return its objective: what a sweep makes small or
    large."""
    # Imported here, so that a task loads only what it needs.
    from neobert.training.strategy import with_shared_batch

    config = with_shared_batch(config)
    if config.task == "mteb":
        from neobert.tasks.mteb.run import run_mteb

        return run_mteb(config)
    from neobert.training.run import train

    return train(task_run(config), config, extras)


def task_run(config: Config) -> "type[TaskRun]":
    """What is special about the runs of ``config``'s task, which is imported now."""
    if config.task not in RUNS:
        raise ConfigError(f"task={config.task}: has no evaluation of its own")
    module = import_module(f"neobert.tasks.{config.task}.run")
    kind: type[TaskRun] = getattr(module, RUNS[config.task])
    return kind
