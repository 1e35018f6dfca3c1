"""The tasks, unaware of each other."""

from typing import TYPE_CHECKING

from neobert.config.root import Config
from neobert.errors import ConfigError

if TYPE_CHECKING:  # it imports Lightning
    from neobert.training.extras import Extras
    from neobert.training.run import TaskRun


def run(config: Config, extras: "Extras | None" = None) -> float | None:
    """Run the task that ``config`` names; return its objective: what a sweep makes small or
    large."""
    # Imported here, so that a task loads only what it needs.
    from neobert.training.strategy import with_shared_batch

    config = with_shared_batch(config)
    match config.task:
        case "pretraining":
            from neobert.tasks.pretraining.run import run as pretrain

            return pretrain(config, extras)
        case "glue":
            from neobert.tasks.glue.run import run as fine_tune

            return fine_tune(config, extras)
        case "token_classification":
            from neobert.tasks.token_classification.run import run as tag

            return tag(config, extras)
        case "question_answering":
            from neobert.tasks.question_answering.run import run as answer

            return answer(config, extras)
        case "contrastive":
            from neobert.tasks.contrastive.run import run as contrast

            return contrast(config, extras)
        case "mteb":
            from neobert.tasks.mteb.run import run as evaluate

            return evaluate(config)
        case other:
            raise ValueError(f"task has no case for {other!r}")


def task_run(config: Config) -> "type[TaskRun]":
    """What is special about the runs of ``config``'s task."""
    match config.task:
        case "pretraining":
            from neobert.tasks.pretraining.run import PretrainingRun

            return PretrainingRun
        case "glue":
            from neobert.tasks.glue.run import GlueRun

            return GlueRun
        case "token_classification":
            from neobert.tasks.token_classification.run import TokenRun

            return TokenRun
        case "question_answering":
            from neobert.tasks.question_answering.run import AnswerRun

            return AnswerRun
        case "contrastive":
            from neobert.tasks.contrastive.run import ContrastiveRun

            return ContrastiveRun
        case other:
            raise ConfigError(f"task={other}: has no evaluation of its own")
