"""``python -m neobert.train -m …``: sweeps by Hydra, each job a process of its own.

Hydra's sweepers (basic, Optuna) choose the settings. A job runs as a fresh single run, so that a
failed one takes no other with it, and because Lightning's launcher for several devices would start
the whole sweep again on its second process.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from neobert.config.checks import ConfigError
from neobert.config.compose import (
    compose_config,
    conf_dir,
    group_names,
    hydra_form,
    unreadable,
)
from neobert.config.store import field_types, load_config_file, nearest, to_plain
from neobert.console import get_logger

log = get_logger(__name__)

INTERRUPTED = 75


@dataclass(frozen=True, slots=True)
class Job:
    """A job of a sweep and how it ended."""

    number: int
    overrides: list[str]
    folder: str
    code: int
    objective: float | None
    """What the task returned: the final evaluation loss of pretraining, the score of GLUE."""


def sweep(words: Sequence[str]) -> int:
    """Run all jobs, list them, return 0 if every one succeeded, else 1.

    Raises ``ConfigError`` before the first job if the settings that all jobs share are wrong.
    """
    words = hydra_form(words)
    fixed, swept = _sorted_out(words)
    folder = Path(compose_config(fixed).trainer.output_dir)
    jobs: list[Job] = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    def run(composed: DictConfig) -> float:
        settings = HydraConfig.get()
        job = _run_job(int(settings.job.num), settings.overrides.task, settings.runtime.output_dir)
        jobs.append(job)
        if job.code == INTERRUPTED:
            raise KeyboardInterrupt
        return (
            job.objective
            if job.objective is not None
            else _worst(str(OmegaConf.select(settings.sweeper, "direction")))
        )

    sys.argv = [
        sys.argv[0],
        "--multirun",
        *(_added(word) for word in (*fixed, *swept)),
        f"hydra.sweep.dir={folder}",
        "hydra.sweep.subdir=${hydra.job.num}",
        "hydra.output_subdir=null",
    ]
    try:
        run()
    except KeyboardInterrupt:
        log.warning("the sweep was interrupted after %d jobs", len(jobs))
    _report(jobs, folder)
    return int(any(job.code for job in jobs))


def _sorted_out(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Settings that all jobs share, and what is swept (or is about Hydra itself)."""
    parser = OverridesParser.create()
    fixed, swept, problems = [], [], []
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException:
            problems.append(unreadable(word))
            continue
        key = override.key_or_group
        if override.is_sweep_override() or key.startswith("hydra") or key == "sweep":
            swept.append(word)
            known = key in field_types() or key in group_names() or key.startswith("hydra")
            if not known:
                problems.append(f"command line: unknown key {key}{nearest(key)}")
        else:
            fixed.append(word)
    if problems:
        raise ConfigError(*problems)
    return fixed, swept


def _added(word: str) -> str:
    """Settings in the form that Hydra takes without knowing the schema: ``++key=value``."""
    key = word.partition("=")[0]
    is_setting = key not in group_names() and not key.startswith("hydra")
    return f"++{word}" if is_setting else word


def _run_job(number: int, overrides: Sequence[str], folder: str) -> Job:
    mine = [word.lstrip("+") for word in overrides if not word.startswith("sweep=")]
    mine = [word for word in mine if not word.startswith("trainer.output_dir=")]
    done = finished_run(Path(folder), mine)
    if done is not None:
        log.info("job %d: %s: finished before, in %s", number, " ".join(mine), done)
        return Job(number, mine, str(done), 0, _objective(done))
    log.info("job %d: %s", number, " ".join(mine))
    command = [sys.executable, "-m", "neobert.train", *mine, f"trainer.output_dir={folder}"]
    # Before the job's own settings can name one: W&B puts the runs of a sweep together.
    environment = {"WANDB_RUN_GROUP": Path(folder).parent.name, **os.environ}
    ended = subprocess.run(command, check=False, env=environment)
    return Job(number, mine, folder, ended.returncode, _objective(Path(folder)))


def finished_run(folder: Path, words: Sequence[str]) -> Path | None:
    """A run in the sweep's folder that these settings have been run to the end in, if any.

    Whatever its number: the sweep may have had other jobs then.
    """
    try:
        now = _without_folder(to_plain(compose_config(words)))
    except ConfigError:
        return None  # the job will say so
    for summary in sorted(folder.parent.glob("*/summary.json")):
        try:
            before = to_plain(load_config_file(summary.parent / "config.yaml"))
        except ConfigError:
            continue  # of another version, whose settings are not comparable
        if _without_folder(before) == now:
            return summary.parent
    return None


def _without_folder(settings: dict[str, object]) -> dict[str, object]:
    trainer = settings["trainer"]
    assert isinstance(trainer, dict)
    apart = ("output_dir", "resume_from_checkpoint")
    kept = {key: value for key, value in trainer.items() if key not in apart}
    return {**settings, "trainer": kept}


def _objective(folder: Path) -> float | None:
    try:
        found = json.loads((folder / "summary.json").read_text()).get("objective")
    except (OSError, ValueError):
        return None
    return float(found) if found is not None else None


def _worst(direction: str) -> float:
    """What a failed job counts as."""
    return -math.inf if direction.lower().endswith("maximize") else math.inf


def _report(jobs: Sequence[Job], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = json.dumps([asdict(job) for job in jobs], indent=2)
    (folder / "sweep.json").write_text(table + "\n")
    for job in jobs:
        result = f"objective {job.objective:.5g}" if job.objective is not None else "no objective"
        state = result if job.code == 0 else f"FAILED (exit code {job.code})"
        log.info("job %d: %s  %s", job.number, state, " ".join(job.overrides))
