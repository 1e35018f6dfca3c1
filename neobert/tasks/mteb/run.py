"""MTEB from settings to scores: choose the tasks, load the model, evaluate, sum up.

Everything is written below ``trainer.output_dir/mteb/<step or name>/``; the run itself is only
read.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mteb.benchmarks import Benchmark
from mteb.get_tasks import TASK_LIST

from neobert.config.mteb import read_local_tasks
from neobert.config.root import Config
from neobert.config.store import save_config
from neobert.console import get_logger
from neobert.errors import RunError
from neobert.files import SUMMARY, write_json
from neobert.tasks.mteb.evaluate import MEAN_TASK, Outcome, by_type, evaluate_tasks, overall
from neobert.tasks.mteb.model import Evaluated, load_evaluated
from neobert.tasks.mteb.select import check_prompts, select_tasks
from neobert.training.summary import command_line, origin

log = get_logger(__name__)

OWN_TASKS = "own_tasks.json"
"""Beside the results: name -> type of the tasks that mteb does not know."""


def run_mteb(config: Config) -> float:
    """Evaluate; return the mean score over the tasks (the objective of a sweep).

    Raises ``RunError`` at the end if a task failed; the other results are written.
    """
    tasks, benchmark = select_tasks(config.mteb_task_type, read_local_tasks(config.mteb_local)[0])
    check_prompts(config.mteb_prompts, tasks)
    model = load_evaluated(config)
    folder = Path(config.trainer.output_dir) / "mteb" / model.label
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "config.yaml")
    meta = model.encoder.mteb_model_meta
    count = "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks"
    log.info("%s: %s with %s (%s)", folder, count, model.source, meta.revision)
    outcomes = evaluate_tasks(
        model.encoder, tasks, folder, config.mteb_batch_size, config.mteb_overwrite_results
    )
    _record_types(outcomes, folder / OWN_TASKS)
    summary = summarize(config, model, outcomes, benchmark)
    write_json(summary, folder / SUMMARY)
    means = {**summary["by_type"], **summary["overall"]}
    log.info("%s", "   ".join(f"{name} {100 * mean:.2f}" for name, mean in means.items()))
    if failed := [outcome for outcome in outcomes if outcome.error]:
        done = len(outcomes) - len(failed)
        raise RunError(
            *(f"{outcome.name} failed: {outcome.error}" for outcome in failed),
            f"{len(failed)} of {len(outcomes)} tasks failed; the results of the other {done} "
            f"are in {folder}, and the same command tries the failed ones again",
        )
    return float(means[MEAN_TASK])


def summarize(
    config: Config, model: Evaluated, outcomes: list[Outcome], benchmark: Benchmark | None
) -> dict[str, Any]:
    """What ``summary.json`` says."""
    scores = {outcome.name: outcome.score for outcome in outcomes if outcome.score is not None}
    types = {outcome.name: outcome.type for outcome in outcomes}
    names = [task.metadata.name for task in benchmark.tasks] if benchmark is not None else []
    meta = model.encoder.mteb_model_meta
    return {
        "task": "mteb",
        "mteb_task_type": config.mteb_task_type,
        "benchmark": benchmark.name if benchmark is not None else None,
        "model": meta.name,
        "revision": meta.revision,
        "source": model.source,
        "tasks": {outcome.name: asdict(outcome) for outcome in outcomes},
        # Only without any is a mean the benchmark's.
        "missing": [name for name in names if name not in scores],
        "by_type": by_type(scores, types),
        "overall": overall(scores, types),
        **{f"pretraining_{key}": value for key, value in config.pretraining_metadata.items()},
        **origin(command_line()),
    }


def _record_types(outcomes: list[Outcome], file: Path) -> None:
    """Add the types of tasks that only this run knows, for ``neobert.tools.mteb_report``."""
    known = {task.metadata.name for task in TASK_LIST}
    own = {outcome.name: outcome.type for outcome in outcomes if outcome.name not in known}
    if own:
        earlier = json.loads(file.read_text()) if file.is_file() else {}
        write_json(earlier | own, file)
