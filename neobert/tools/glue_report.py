"""``python -m neobert.tools.glue_report FOLDER``: the runs of ``task=glue`` below a folder.

The report of :mod:`neobert.tools.fine_tuning_report` with GLUE's average and published scores, as
``glue.md``, ``glue.json`` and ``glue.png``.
"""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean

from neobert.failures import run_program
from neobert.tasks.glue.published import GLUE_8, PUBLISHED
from neobert.tools.fine_tuning_report import (
    ReportContent,
    Result,
    report_command,
    results_chart,
    results_table,
)
from neobert.tools.report_files import Scores, markdown_table

DEFINITION = (
    "GLUE-8: the unweighted mean of " + ", ".join(GLUE_8) + "; WNLI is left out, as in the papers"
)


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
    lines = ["# GLUE report", "", "Official dev scores in percent, mean ± sd over seeds.", ""]
    lines += results_table(results)
    lines += ["", "## Averages", "", f"{DEFINITION}. Not given while a task is missing.", ""]
    for model in sorted({result.model for result in results}):
        value, missing = glue_average(results, model)
        shown = f"**{value:.1f}**" if value is not None else f"missing: {', '.join(missing)}"
        lines.append(f"- {model}: {shown}")
    return "\n".join([*lines, "", *_published_lines(), ""])


def glue_report(results: Sequence[Result]) -> ReportContent:
    """The report of all GLUE tasks; its chart has the published numbers as marks."""
    averages = {}
    for model in sorted({result.model for result in results}):
        value, missing = glue_average(results, model)
        averages[model] = {"average": value, "missing": missing}
    data = {
        "definition": DEFINITION,
        "results": [asdict(result) for result in results],
        "averages": averages,
        "published": [asdict(row) for row in PUBLISHED],
    }
    reported = {result.task for result in results}
    tasks = [task for task in GLUE_8 if task in reported] + sorted(reported - set(GLUE_8))
    published = [Scores(row.model, row.scores) for row in PUBLISHED]
    return glue_page(results), data, results_chart(results, tasks, published)


def main(words: Sequence[str] | None = None) -> int:
    """Report the runs of ``task=glue``."""
    return report_command(words, "glue", ("glue",), glue_report)


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
