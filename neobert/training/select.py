"""Which checkpoint of a run another task starts from: ``latest``, ``best``, or a step."""

from pathlib import Path

import torch

from neobert.config.checks import ConfigError
from neobert.training.checkpoint import (
    STATE,
    damages,
    latest_checkpoint,
    list_checkpoints,
)


def select_checkpoint(run: Path, selector: str, key: str) -> Path:
    """The undamaged checkpoint of ``run`` that ``selector`` names.

    ``key`` is the setting that named the run, for the message of the ``ConfigError`` that is raised
    if there is no such checkpoint.
    """
    there = list_checkpoints(run / "checkpoints")
    if not there:
        raise ConfigError(
            f"{key}={run}: there is no complete checkpoint in {run}/checkpoints (one of the "
            "reference has no manifest.json: name its folder itself)"
        )
    if selector == "latest":
        found = latest_checkpoint(run / "checkpoints")
        if found is None:
            raise ConfigError(f"{key}={run}: all checkpoints there are damaged")
        return found
    name = str(best_step(there[-1])) if selector == "best" else selector
    steps = ", ".join(folder.name for folder in there)
    if name not in steps.split(", "):
        what = f"pretrained_checkpoint={selector}"
        why = "no evaluation was the best of this run" if name == "None" else f"there is no {name}"
        raise ConfigError(f"{what}: {why}; {run}/checkpoints has {steps} (or take latest)")
    folder = run / "checkpoints" / name
    if problems := damages(folder):
        raise ConfigError(f"{folder} is damaged: {'; '.join(problems)}")
    return folder


def best_step(newest: Path) -> int | None:
    """The step whose evaluation was the best until ``newest`` was saved, by its own record."""
    state = torch.load(newest / STATE, map_location="cpu", weights_only=True, mmap=True)
    for name, record in state.get("callbacks", {}).items():
        if name.startswith("Checkpointer"):
            return record["best_step"]
    return None
