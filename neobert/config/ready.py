"""Whether a run could start, checked before torch is imported, and for every job of a sweep."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from neobert.config.checks import require
from neobert.config.root import Config

SECTIONS = {
    "glue": "glue",
    "contrastive": "contrastive",
    "token_classification": "tokens",
    "question_answering": "answers",
}
"""Tasks that start from weights, and their sections."""

PLACES = {
    "glue": "glue.pretrained_model_path=RUN_OR_FOLDER (or model.init_from), or "
    "glue.pretrained_checkpoint_dir=RUN, or model.from_hub=true with model.name",
    "contrastive": "contrastive.pretrained_checkpoint_dir=RUN, or "
    "contrastive.pretrained_model_path=FOLDER_OR_HUB_ID",
}
"""What names the weights where a task has keys of its own for that."""


def without_weights(task: str) -> str:
    """The problem of a run that would start from nothing."""
    place = PLACES.get(
        task, "model.init_from=RUN_OR_FOLDER, or model.from_hub=true with model.name"
    )
    return (
        f"task={task} starts from no weights: set {place}, or "
        f"{SECTIONS[task]}.allow_random_weights=true to learn from a random start"
    )


def start_problems(config: Config) -> list[str]:
    """What keeps a run with valid settings from starting, as far as it is known without torch."""
    return _weight_problems(config) + _target_problems(config)


def weights_of(config: Config) -> str | None:
    """Where the weights are from that a run starts with; ``None``: random ones."""
    model, glue, contrastive = config.model, config.glue, config.contrastive
    if config.task == "contrastive":
        return contrastive.pretrained_checkpoint_dir or contrastive.pretrained_model_path
    if config.task == "glue" and glue.transfer_from_task:
        return "a run of another task"
    if model.from_hub and config.task != "pretraining":
        return model.name
    of_glue = glue.pretrained_checkpoint_dir or glue.pretrained_model_path
    return (of_glue if config.task == "glue" else None) or model.init_from


def _weight_problems(config: Config) -> list[str]:
    """A problem if the task needs weights to start from and none are set."""
    if config.task not in SECTIONS or config.trainer.resume_from_checkpoint is not None:
        return []
    may_be_random = getattr(config, SECTIONS[config.task]).allow_random_weights
    return require(bool(weights_of(config) or may_be_random), without_weights(config.task))


def _target_problems(config: Config) -> list[str]:
    """A problem for each callback or logger whose module does not exist."""
    return [
        f"{key}.{name}: there is no module {module}: it must be installed, or in the current folder"
        for key in ("callbacks", "loggers")
        for name, entry in getattr(config, key).items()
        if isinstance(entry, dict) and "_target_" in entry
        for module in [str(entry["_target_"]).partition(".")[0]]
        if not _exists(module)
    ]


def _exists(module: str) -> bool:
    if not module or module in sys.modules:
        return bool(module)
    return bool(find_spec(module) or PathFinder.find_spec(module, [str(Path.cwd())]))


def folder_problems(output_dir: str) -> list[str]:
    """A problem if the run's or the sweep's folder cannot be written."""
    folder = Path(output_dir)
    existing = next(
        (path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), Path("/")
    )
    why = "is no folder" if not existing.is_dir() else "is not writable"
    usable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return require(usable, f"trainer.output_dir={folder}: cannot be written: {existing} {why}")
