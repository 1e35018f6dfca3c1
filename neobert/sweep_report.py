"""What a sweep leaves: ``sweep.json``, ``sweep.csv`` and ``sweep.png``, of all jobs of a folder."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from neobert.console import get_logger
from neobert.errors import ExitCode
from neobert.files import write_atomically, write_json
from neobert.sweep_jobs import Job, read_jobs, varied_overrides

log = get_logger(__name__)

MOST_PANELS = 6
"""Settings that are plotted."""


def report(folder: str | Path, sweep: str, expected: int = 0) -> bool:
    """Write the tables of a sweep's folder and log its jobs; return whether one of them failed.

    ``sweep``: the command whose jobs are logged. ``expected``: how many it should have run.
    """
    jobs = read_jobs(Path(folder))
    mine = [job for job in jobs if job.sweep == sweep]
    write_tables(Path(folder), jobs)
    for job in mine:
        shown = varied_overrides(job.overrides, [each.overrides for each in mine])
        log.info("job %d: %s  %s", job.number, outcome(job), " ".join(shown))
    missing = expected - len({number for job in mine for number in (job.number, *job.repeats)})
    if missing > 0:
        log.error("%d jobs were lost or did not start", missing)
    return missing > 0 or any(job.code != 0 for job in mine)


def write_tables(folder: Path, jobs: Sequence[Job]) -> None:
    """Write ``sweep.json``, ``sweep.csv`` and ``sweep.png``; nothing without a job."""
    if not jobs:
        return
    write_json([asdict(job) for job in jobs], folder / "sweep.json")
    text = io.StringIO()
    csv.writer(text).writerows(sweep_table(jobs))
    write_atomically(folder / "sweep.csv", text.getvalue())
    plot_sweep(jobs, folder / "sweep.png")


def outcome(job: Job) -> str:
    """How a job ended, in words."""
    if job.code is None:
        return "not ended"
    if job.code == ExitCode.INTERRUPTED:
        return "interrupted; the same command resumes it"
    if job.code:
        return f"FAILED (exit code {job.code})"
    return f"objective {job.objective:.5g}" if job.objective is not None else "no objective"


def varied(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """Settings in which the jobs differ -> their value in each job; empty: not set there."""
    settings = [dict(_pair(word) for word in job.overrides) for job in jobs]
    keys = dict.fromkeys(key for job_settings in settings for key in job_settings)
    columns = {key: [job_settings.get(key, "") for job_settings in settings] for key in keys}
    return {key: values for key, values in columns.items() if len(set(values)) > 1}


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.lstrip("+").partition("=")
    return key, value


def sweep_table(jobs: Sequence[Job]) -> list[list[object]]:
    """The head and a row for each job: number, settings that differ, objective, outcome, folder."""
    columns = varied(jobs)
    rows: list[list[object]] = [["number", *columns, "objective", "outcome", "folder"]]
    for row, job in enumerate(jobs):
        values = [column[row] for column in columns.values()]
        how = "finished" if job.code == 0 else outcome(job)
        rows.append([job.number, *values, job.objective, how, job.folder])
    return rows


def plot_sweep(jobs: Sequence[Job], path: Path) -> None:
    """Plot the objective over each setting in which the jobs differ; nothing if there is none."""
    done = [job for job in jobs if job.objective is not None]
    columns = dict(list(varied(done).items())[:MOST_PANELS])
    if not columns:
        return
    from matplotlib.figure import Figure  # half a second

    from neobert.tools.report_files import save_figure

    figure = Figure(figsize=(4 * len(columns), 3.2), layout="constrained")
    for number, (key, values) in enumerate(columns.items(), start=1):
        axes = figure.add_subplot(1, len(columns), number)
        numbers, names = _numbers(values), sorted(set(values))
        places = numbers or [names.index(value) for value in values]
        axes.plot(places, [job.objective or 0.0 for job in done], "o")
        if numbers is None:
            axes.set_xticks(range(len(names)), [name or "not set" for name in names])
        elif min(numbers) > 0 and max(numbers) >= 20 * min(numbers):
            axes.set_xscale("log")
        else:
            axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(key)
        axes.set_ylabel("objective")
    save_figure(figure, path)


def _numbers(values: Sequence[str]) -> list[float] | None:
    try:
        return [float(value) for value in values]
    except ValueError:
        return None
