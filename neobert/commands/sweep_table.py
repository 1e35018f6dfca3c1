"""``neobert sweep-report DIR``: the objective of every job of a sweep over its settings."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from neobert.errors import ConfigError
from neobert.sweep_jobs import read_jobs
from neobert.sweep_report import sweep_table, write_tables
from neobert.tools.report_files import markdown_table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="neobert sweep-report",
        description="Print a table of the jobs of a sweep, also of one that was killed or still "
        "runs, and rewrite DIR/sweep.json, sweep.csv and sweep.png.",
    )
    arguments.add_argument("folder", type=Path, metavar="DIR", help="the folder of a sweep")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Raises ``ConfigError`` if the folder holds no sweep."""
    folder = parser().parse_args(argv).folder
    jobs = read_jobs(folder)
    if not jobs:
        raise ConfigError(f"{folder} is not the folder of a sweep: it has no record of a job")
    write_tables(folder, jobs)
    head, *rows = [[_shown(cell) for cell in row] for row in sweep_table(jobs)]
    sys.stdout.write("\n".join(markdown_table(head, rows)) + "\n")
    return 0


def _shown(cell: object) -> str:
    return f"{cell:.5g}" if isinstance(cell, float) else "" if cell is None else str(cell)
