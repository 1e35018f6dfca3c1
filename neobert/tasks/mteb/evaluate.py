"""Run tasks one by one: finished ones are not run again, a failing one takes no other with it."""

import logging
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mteb
from datasets import disable_progress_bars
from mteb.abstasks import AbsTask
from mteb.cache import ResultCache
from mteb.results import TaskResult

from neobert.console import get_logger
from neobert.tasks.mteb.hub_encoder import HubEncoder
from neobert.tasks.mteb.packed_encoder import PackedEncoder

log = get_logger(__name__)

MEAN_TASK, MEAN_TYPE = "Mean (Task)", "Mean (TaskType)"
"""mteb's names: the mean over tasks, and the mean over the means of types."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task."""

    name: str
    type: str
    """In mteb's words: Retrieval, STS, …"""

    metric: str
    """The task's main score, which ``score`` is."""

    score: float | None
    """Mean over splits and subsets, mostly within [0, 1]; ``None`` if the task failed."""

    dataset_revision: str
    seconds: float
    again: bool
    """Evaluated in this run (true), or found among the results (false)."""

    error: str | None = None


def evaluate_tasks(
    encoder: PackedEncoder | HubEncoder,
    tasks: Sequence[AbsTask],
    folder: Path,
    batch_size: int,
    overwrite: bool,
) -> list[Outcome]:
    """The outcome of each task, in their order; results in mteb's format below ``folder``."""
    _quiet()
    cache = ResultCache(cache_path=folder)
    outcomes = []
    for number, task in enumerate(tasks, start=1):
        outcome = _evaluated(encoder, task, cache, batch_size, overwrite)
        outcomes.append(outcome)
        log.info("%d/%d %s", number, len(tasks), describe_outcome(outcome))
    return outcomes


def describe_outcome(outcome: Outcome) -> str:
    """One line for the console."""
    if outcome.score is None:
        return f"{outcome.name} failed: {outcome.error}"
    how = f"in {outcome.seconds:.1f} s" if outcome.again else "from an earlier run"
    return f"{outcome.name} ({outcome.type}): {outcome.metric} {outcome.score:.4f}, {how}"


def main_score(result: TaskResult) -> float:
    """Mean of the main scores over splits and subsets, each with the six digits mteb keeps."""
    scores = [float(row["main_score"]) for rows in result.scores.values() for row in rows]
    return sum(round(score, 6) for score in scores) / len(scores)


def by_type(scores: Mapping[str, float], types: Mapping[str, str]) -> dict[str, float]:
    """Mean score of each type, by its name."""
    groups = defaultdict(list)
    for name, score in scores.items():
        groups[types[name]].append(score)
    return {kind: sum(group) / len(group) for kind, group in sorted(groups.items())}


def overall(scores: Mapping[str, float], types: Mapping[str, str]) -> dict[str, float]:
    """The two means that benchmarks are compared by; empty without scores."""
    if not scores:
        return {}
    means = by_type(scores, types)
    return {
        MEAN_TASK: sum(scores.values()) / len(scores),
        MEAN_TYPE: sum(means.values()) / len(means),
    }


def _evaluated(
    encoder: PackedEncoder | HubEncoder,
    task: AbsTask,
    cache: ResultCache,
    batch_size: int,
    overwrite: bool,
) -> Outcome:
    metadata = task.metadata
    revision = str(metadata.dataset["revision"]) if not task.is_aggregate else "aggregate"
    known = None if overwrite else _finished(encoder, task, cache)
    start = time.perf_counter()
    result, error = known, None
    if result is None:
        try:
            with warnings.catch_warnings():
                # Of scikit-learn and mteb, about data that is what it is.
                warnings.simplefilter("ignore")
                results = mteb.evaluate(
                    encoder,
                    task,
                    cache=cache,
                    overwrite_strategy="always",
                    encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
                    show_progress_bar=False,
                    co2_tracker=False,
                )
            result = _with_number(results.task_results[0])
        except Exception as caught:  # a task may fail of anything: its data, its network, its code
            log.debug("%s", metadata.name, exc_info=True)
            error = " ".join(f"{type(caught).__name__}: {caught}".split())[:300]
    return Outcome(
        name=metadata.name,
        type=metadata.type,
        metric=metadata.main_score,
        score=None if result is None else main_score(result),
        dataset_revision=revision,
        seconds=round(time.perf_counter() - start, 3),
        again=known is None,
        error=error,
    )


def _with_number(result: TaskResult) -> TaskResult:
    if math.isnan(main_score(result)):
        raise ValueError("the score is not a number, as when all vectors are equal")
    return result


def _finished(
    encoder: PackedEncoder | HubEncoder, task: AbsTask, cache: ResultCache
) -> TaskResult | None:
    """The result of an earlier run: of this model, with all splits and subsets, of this data.

    mteb itself would take a complete result of other data.
    """
    result = cache.load_task_result(task.metadata.name, encoder.mteb_model_meta)
    if result is None or result.get_missing_evaluations(task):
        return None
    if math.isnan(main_score(result)):
        return None
    if not task.is_aggregate and result.dataset_revision != task.metadata.dataset["revision"]:
        log.info("%s: the data has changed since it was evaluated", task.metadata.name)
        return None
    return result


def _quiet() -> None:
    for name in ("mteb", "datasets", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    disable_progress_bars()
