"""``python -m neobert.tools.fine_tuning_report FOLDER``: the fine-tuning runs below a folder.

For each model and task, runs that differ in their seed alone are one setting; the setting with the
best mean score is reported, with mean ± standard deviation over its seeds. Writes
``fine_tuning.md``, ``fine_tuning.json`` and ``fine_tuning.png`` into the folder.

The score of a run is that of the model it ended with: the best evaluation where the run loads its
best model, else the last one. Choosing the best of several settings, or of several epochs, on the
evaluation set is optimistic; so the number of settings tried is given too.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from neobert.console import get_logger, show_messages
from neobert.failures import run_program
from neobert.files import SUMMARY, reading, summaries_below, user_path
from neobert.tools.report_files import Scores, bar_chart, markdown_table, write_report_files

log = get_logger("neobert.tools.fine_tuning_report")  # __name__ may be __main__ here

TASKS = ("glue", "token_classification", "question_answering")
ReportContent = tuple[str, object, Figure]
"""What is written: a page, the same as data, a picture."""

COLUMNS = ("model", "task", "score", "n", "examples", "lr", "batch", "epochs", "settings tried")


@dataclass(frozen=True, slots=True)
class FineTunedRun:
    """A finished run, as recorded in its ``summary.json``."""

    folder: str
    model: str
    task: str
    seed: int
    setting: tuple[tuple[str, object], ...]
    """All that may differ between runs of a task, the seed left out."""

    score: float
    """Official score of the final model, in percent."""

    final_epoch: float
    """Epochs after which the scored model was made."""


@dataclass(frozen=True, slots=True)
class Result:
    """The best setting of a model on a task."""

    model: str
    task: str
    mean: float
    sd: float | None
    """Sample standard deviation over the seeds; ``None`` for one run."""

    runs: int
    settings_tried: int
    setting: dict[str, object]
    epochs: float
    """Mean number of epochs after which the scored models were made."""

    scores: dict[str, float]
    """By seed."""

    folders: list[str]


def find_runs(folder: Path, tasks: Sequence[str] = TASKS) -> list[FineTunedRun]:
    """All finished runs of ``tasks`` below ``folder`` that have a score."""
    runs = []
    for run_folder, summary in summaries_below(folder):
        if summary.get("task") in tasks and isinstance(summary.get("score"), float):
            with reading(run_folder / SUMMARY, "folder"):
                runs.append(_run(run_folder, summary))
    return runs


def best_results(runs: Sequence[FineTunedRun]) -> list[Result]:
    """The best setting of each model on each task, by mean score over seeds."""
    by_task: dict[tuple[str, str], dict[tuple[tuple[str, object], ...], list[FineTunedRun]]] = {}
    for run in runs:
        settings = by_task.setdefault((run.model, run.task), defaultdict(list))
        settings[run.setting].append(run)
    return [
        _result(max(settings.values(), key=_mean), len(settings))
        for _, settings in sorted(by_task.items())
    ]


def results_table(results: Sequence[Result]) -> list[str]:
    """Lines of a Markdown table of the results."""
    rows = []
    for result in results:
        spread = "" if result.sd is None else f" ± {result.sd:.1f}"
        setting = result.setting
        rows.append(
            (
                result.model,
                result.task,
                f"{result.mean:.1f}{spread}",
                result.runs,
                f"{setting['examples']:,}",
                f"{setting['lr']:g}",
                setting["batch_size"],
                f"{result.epochs:.3g}",
                result.settings_tried,
            )
        )
    return markdown_table(COLUMNS, rows, text_columns=2)


def results_chart(
    results: Sequence[Result], tasks: Sequence[str], published: Sequence[Scores] = ()
) -> Figure:
    """Bars per task, one per model, and published figures as marks."""
    models = []
    for model in sorted({result.model for result in results}):
        own = [result for result in results if result.model == model]
        deviations = {result.task: result.sd for result in own if result.sd is not None}
        models.append(Scores(model, {result.task: result.mean for result in own}, deviations))
    return bar_chart(tasks, models, published, "score, %")


def fine_tuning_report(results: Sequence[Result]) -> ReportContent:
    """The report of all tasks."""
    lines = ["# Fine-tuning report", "", "Scores in percent, mean ± sd over seeds.", ""]
    page = "\n".join([*lines, *results_table(results), ""])
    tasks = sorted({result.task for result in results})
    data = {"results": [asdict(result) for result in results]}
    return page, data, results_chart(results, tasks)


def report_command(
    words: Sequence[str] | None,
    name: str,
    tasks: Sequence[str],
    make: Callable[[Sequence[Result]], ReportContent],
) -> int:
    """The program that reports runs of ``tasks`` in files called ``name``; 1 if it has no run."""
    parser = argparse.ArgumentParser(
        prog=f"python -m neobert.tools.{name}_report",
        description=(__doc__ or "").split("\n\n")[1],
    )
    kinds = " or ".join(f"task={task}" for task in tasks)
    parser.add_argument("folder", type=user_path, help=f"holds runs of {kinds}, at any depth")
    parser.add_argument("--output", type=user_path, help="where to write; default: the folder")
    arguments = parser.parse_args(words)
    show_messages()
    runs = find_runs(arguments.folder, tasks)
    if not runs:
        log.error("error: %s holds no finished run of %s", arguments.folder, kinds)
        return 1
    page, data, figure = make(best_results(runs))
    output = (arguments.output or arguments.folder) / name
    files = write_report_files(output, page, data, figure)
    log.info("%s\n%d runs; written: %s", page, len(runs), ", ".join(map(str, files)))
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Report the runs of all tasks."""
    return report_command(words, "fine_tuning", TASKS, fine_tuning_report)


def _run(folder: Path, summary: Mapping[str, object]) -> FineTunedRun:
    settings = dict(_mapping(summary, "settings"))
    seed = int(str(settings.pop("seed", 0)))
    weights = _mapping(summary, "weights")
    settings["start"] = weights.get("task") or weights.get("kind")
    settings["examples"] = _mapping(summary, "data").get("train", 0)
    steps = float(str(_mapping(summary, "derived").get("steps_per_epoch", 1)))
    score, step = summary["score"], summary.get("score_step", 0)
    assert isinstance(score, float)
    return FineTunedRun(
        folder=str(folder),
        model=str(summary.get("model")),
        task=str(summary["task_name"]),
        seed=seed,
        setting=tuple(sorted(settings.items())),
        score=100 * score,
        final_epoch=float(str(step)) / steps,
    )


def _mapping(summary: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = summary.get(key)
    return value if isinstance(value, dict) else {}


def _mean(runs: Sequence[FineTunedRun]) -> float:
    return mean(run.score for run in runs)


def _result(runs: Sequence[FineTunedRun], settings_tried: int) -> Result:
    scores = [run.score for run in runs]
    return Result(
        model=runs[0].model,
        task=runs[0].task,
        mean=_mean(runs),
        sd=stdev(scores) if len(scores) > 1 else None,
        runs=len(runs),
        settings_tried=settings_tried,
        setting=dict(runs[0].setting),
        epochs=mean(run.final_epoch for run in runs),
        scores={str(run.seed): run.score for run in runs},
        folders=[run.folder for run in runs],
    )


if __name__ == "__main__":
    run_program(main)
