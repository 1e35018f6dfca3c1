"""``metrics.csv``: every logged number of a run, a row per step, whatever else logs.

Lightning's own CSV logger deletes the file of an earlier start; this one goes on where a resumed
run continues, and drops the rows that the lost steps had written.
"""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

Row = dict[str, str]


class MetricsFile(Logger):
    """Lightning logger that writes ``metrics.csv``: column ``step``, then the metrics."""

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        """Start anew, or with the rows up to ``resume_step`` that ``path`` holds already."""
        super().__init__()
        self.path = path
        self._columns: list[str] = ["step"]
        self._rows: list[Row] = []
        if resume_step is not None and path.is_file():
            kept = [row for row in read_metrics(path) if int(row["step"]) <= resume_step]
            for row in kept:  # a column may first have a value after the step that is resumed
                self._add({key: value for key, value in row.items() if value != ""})
        self._rewrite()

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> int:
        return 0

    @property
    def root_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row. Numbers of one step that come one after the other share it."""
        values = {key: repr(float(value)) for key, value in metrics.items()}
        if self._add({"step": str(step), **values}):
            self._rewrite()
        else:
            with self.path.open("a", newline="") as file:
                self._writer(file).writerow(self._rows[-1])

    @rank_zero_only
    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Nothing: the settings are in ``config.yaml``."""

    def _add(self, row: Row) -> bool:
        """Keep ``row``; tell whether lines that are written already have to change."""
        new = [key for key in row if key not in self._columns and row[key] != ""]
        self._columns += new
        if self._rows and self._rows[-1]["step"] == row["step"]:
            self._rows[-1].update(row)
            return True
        self._rows.append(dict(row))
        return bool(new)

    @rank_zero_only
    def _rewrite(self) -> None:
        text = io.StringIO()
        writer = self._writer(text)
        writer.writeheader()
        writer.writerows(self._rows)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text(text.getvalue())
        temporary.replace(self.path)

    def _writer(self, file: "io.TextIOBase | object") -> "csv.DictWriter[str]":
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")  # type: ignore[arg-type]


def read_metrics(path: Path) -> list[Row]:
    """Rows of a ``metrics.csv``; a last line that a crash cut short is left out."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row["step"] or "").isdigit() and None not in row.values()]


def series(rows: list[Row], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it was logged."""
    found = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    return [step for step, _ in found], [value for _, value in found]
