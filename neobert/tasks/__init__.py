"""The tasks, unaware of each other."""

from neobert.config.root import Config


def run(config: Config) -> float | None:
    """Run the task that ``config`` names; return its objective: what a sweep makes small or
    large."""
    # Imported here, so that a task loads only what it needs.
    match config.task:
        case "pretraining":
            from neobert.tasks.pretraining.run import run as pretrain

            return pretrain(config)
        case "glue":
            from neobert.tasks.glue.run import run as fine_tune

            return fine_tune(config)
        case "token_classification":
            from neobert.tasks.token_classification.run import run as tag

            return tag(config)
        case "contrastive":
            from neobert.tasks.contrastive.run import run as contrast

            return contrast(config)
        case "mteb":
            from neobert.tasks.mteb.run import run as evaluate

            return evaluate(config)
        case other:
            raise ValueError(f"task has no case for {other!r}")
