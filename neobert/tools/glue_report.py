"""``python -m neobert.tools.glue_report FOLDER``: a table of the fine-tuning runs below a folder.

For each model and task, runs that differ in their seed alone are one setting; the setting with the
best mean score is reported, with mean ± standard deviation over its seeds. Writes ``glue.md``,
``glue.json`` and ``glue.png`` into the folder.

The score of a run is that of the model it ended with: the best evaluation where the run loads its
best model, else the last one. Choosing the best of several settings, or of several epochs, on the
dev set is optimistic, as in the published numbers; so the number of settings tried is given too.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from neobert.console import get_logger, show_messages
from neobert.failures import run_program
from neobert.files import user_path
from neobert.tasks.glue.published import GLUE_8, PUBLISHED
from neobert.tasks.glue.transfer import read_glue_summary
from neobert.tools.report_files import Scores, bar_chart, markdown_table, write_report_files

log = get_logger("neobert.tools.glue_report")  # __name__ is __main__ here

DEFINITION = (
    "GLUE-8: the unweighted mean of " + ", ".join(GLUE_8) + "; WNLI is left out, as in the papers"
)

COLUMNS = ("model", "task", "score", "n", "examples", "lr", "batch", "epochs", "settings tried")


@dataclass(frozen=True, slots=True)
class FineTunedRun:
    """A finished run, as its ``summary.json`` tells it."""

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


def find_runs(folder: Path) -> list[FineTunedRun]:
    """All finished runs of fine-tuning below ``folder`` that have a score."""
    runs = []
    for path in sorted(folder.glob("**/summary.json")):
        summary = read_glue_summary(path)
        if summary is not None and isinstance(summary.get("score"), float):
            runs.append(_run(path.parent, summary))
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


def glue_average(results: Sequence[Result], model: str) -> tuple[float | None, list[str]]:
    """The mean over the tasks of ``DEFINITION``, and the tasks that are missing.

    ``None`` while one is missing: a mean of fewer tasks would be another number under the same
    name.
    """
    scores = {result.task: result.mean for result in results if result.model == model}
    missing = [task for task in GLUE_8 if task not in scores]
    return (None if missing else mean(scores[task] for task in GLUE_8)), missing


def glue_page(results: Sequence[Result]) -> str:
    """The report as Markdown."""
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
    lines = ["# GLUE report", "", "Official dev scores in percent, mean ± sd over seeds.", ""]
    lines += markdown_table(COLUMNS, rows, text_columns=2)
    lines += ["", "## Averages", "", f"{DEFINITION}. Not given while a task is missing.", ""]
    for model in sorted({result.model for result in results}):
        value, missing = glue_average(results, model)
        shown = f"**{value:.1f}**" if value is not None else f"missing: {', '.join(missing)}"
        lines.append(f"- {model}: {shown}")
    return "\n".join([*lines, "", *_published_lines(), ""])


def glue_chart(results: Sequence[Result]) -> Figure:
    """Bars per task, one per model, and the published numbers as marks."""
    reported = {result.task for result in results}
    models = []
    for model in sorted({result.model for result in results}):
        own = [result for result in results if result.model == model]
        deviations = {result.task: result.sd for result in own if result.sd is not None}
        models.append(Scores(model, {result.task: result.mean for result in own}, deviations))
    tasks = [task for task in GLUE_8 if task in reported] + sorted(reported - set(GLUE_8))
    published = [Scores(row.model, row.scores) for row in PUBLISHED]
    return bar_chart(tasks, models, published, "official score, %")


def as_json(results: Sequence[Result]) -> dict[str, object]:
    """The report as data."""
    averages = {}
    for model in sorted({result.model for result in results}):
        value, missing = glue_average(results, model)
        averages[model] = {"average": value, "missing": missing}
    return {
        "definition": DEFINITION,
        "results": [asdict(result) for result in results],
        "averages": averages,
        "published": [asdict(row) for row in PUBLISHED],
    }


def main(words: Sequence[str] | None = None) -> int:
    """The program; 1 if there is nothing to report."""
    parser = argparse.ArgumentParser(
        prog="python -m neobert.tools.glue_report", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("folder", type=user_path, help="holds runs of task=glue, at any depth")
    parser.add_argument("--output", type=user_path, help="where to write; default: the folder")
    arguments = parser.parse_args(words)
    show_messages()
    runs = find_runs(arguments.folder)
    if not runs:
        log.error("error: %s holds no finished run of task=glue", arguments.folder)
        return 1
    results = best_results(runs)
    output = (arguments.output or arguments.folder) / "glue"
    page = glue_page(results)
    files = write_report_files(output, page, as_json(results), glue_chart(results))
    log.info("%s\n%d runs; written: %s", page, len(runs), ", ".join(map(str, files)))
    return 0


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


def _published_lines() -> list[str]:
    rows = [
        (row.model, *(f"{row.scores[task]:.1f}" for task in GLUE_8), f"{row.average:.1f}")
        for row in PUBLISHED
    ]
    lines = ["## Published, for comparison", ""]
    lines += markdown_table(["model", *GLUE_8, "average"], rows)
    lines += ["", "Sources:", ""]
    lines += [f"- {row.model}: {row.source}" for row in PUBLISHED]
    return [*lines, "", "Their grids, their transfer and their choice of metric differ from ours."]


if __name__ == "__main__":
    run_program(main)
