"""``metrics.csv``: every logged number of a run, a row per step, whatever else logs.

Lightning's own CSV logger deletes the file of an earlier start; this one continues where a resumed
run does, and drops the rows that the lost steps had written.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from neobert.console import get_logger
from neobert.errors import ConfigError, RunError
from neobert.files import first_line, reading, write_atomically

log = get_logger(__name__)

Row = dict[str, str]

LONGEST_FIELD = 2**20
"""Characters of a field; ours have some twenty."""


class MetricsFile(Logger):
    """Lightning logger that appends to ``metrics.csv``: column ``step``, then the metrics.

    Numbers of one step share a row, which :meth:`save` writes: Lightning calls it after an
    evaluation, :class:`~neobert.training.logger.SaveLogs` after a step. Only new columns make it
    rewrite the file. A row that cannot be written (full disk, lost folder) waits for the next
    attempt, and the run continues.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        """Start with no rows, or with those up to ``resume_step`` that ``path`` has already."""
        super().__init__()
        self.path = path
        self._columns: list[str] = ["step"]
        self._waiting: list[Row] = []
        """Rows that are not written yet; the first may extend the last one in the file."""

        self._last: Row = {}
        """The row that numbers of its step are added to."""

        self._last_step = ""
        self._last_start = 0
        """Byte in the file at which its last row starts."""

        self._size = 0
        self._failed = False
        rows: list[Row] = []
        if resume_step is not None and path.is_file():
            rows = [row for row in read_metrics(path) if int(row["step"]) <= resume_step]
            # A column may get its first value after the resumed step.
            rows = [{key: value for key, value in row.items() if value != ""} for row in rows]
        try:
            self._rewrite(rows)
        except OSError as error:
            raise RunError(f"{path} cannot be written ({first_line(error)})") from error

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
        """Add numbers of ``step``; :meth:`save` writes them."""
        values = {key: repr(float(value)) for key, value in metrics.items()}
        if self._last.get("step") != str(step):
            self._last = {"step": str(step)}
        self._last.update(values)
        if not any(row is self._last for row in self._waiting[-1:]):
            self._waiting.append(self._last)

    @rank_zero_only
    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Nothing: the settings are in ``config.yaml``."""

    @rank_zero_only
    def save(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        try:
            self._append()
        except (OSError, ConfigError) as error:
            if not self._failed:
                log.warning(
                    "%s cannot be written (%s): training continues, and the missing lines are "
                    "written once it can be",
                    *(self.path, first_line(error)),
                )
            self._failed = True
            return
        self._waiting, self._failed = [], False

    def _append(self) -> None:
        if any(key not in self._columns for row in self._waiting for key in row):
            if self._size and not self.path.exists():
                raise FileNotFoundError(f"{self.path} is gone")
            rows = read_metrics(self.path)
            extends = rows and rows[-1]["step"] == self._waiting[0]["step"]
            self._rewrite([*(rows[:-1] if extends else rows), *self._waiting])
            return
        extends = self._last_step == self._waiting[0]["step"]
        lines = [self._line(row) for row in self._waiting]
        # Not where the file ends: the start of a line may be there that could not be written whole.
        start = self._last_start if extends else self._size
        with self.path.open("r+b") as file:
            file.seek(start)
            file.truncate()
            file.write(b"".join(lines))
        self._size = start + sum(map(len, lines))
        self._last_start = self._size - len(lines[-1])
        self._last_step = self._waiting[-1]["step"]

    @rank_zero_only
    def _rewrite(self, rows: list[Row]) -> None:
        before = self._columns
        self._columns = list(dict.fromkeys([*before, *(key for row in rows for key in row)]))
        header = {key: key for key in self._columns}
        lines = [self._line(row) for row in (header, *rows)]
        try:
            write_atomically(self.path, b"".join(lines))
        except OSError:
            self._columns = before
            raise
        self._size = self._last_start = sum(map(len, lines))
        self._last_step = ""
        if rows:
            self._last, self._last_step = rows[-1], rows[-1]["step"]
            self._last_start -= len(lines[-1])

    def _line(self, row: Row) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerow(row)
        return text.getvalue().encode()


def read_metrics(path: Path) -> list[Row]:
    """Rows of a ``metrics.csv``; a last line that a crash cut short is left out.

    None if there is no such file. Raises ``ConfigError`` if it is no such table.
    """
    if not path.exists():
        return []
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    with reading(path, "trainer.output_dir"), path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "step" not in (reader.fieldnames or ["step"]):
            raise ConfigError(f"{path}: is no metrics.csv of a run: it has no column step")
        rows = [row for row in reader if _is_whole(row)]
        for row in rows:
            for key, value in row.items():
                _check_number(path, row["step"], key, value)
    return rows


def series(rows: Iterable[Row], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it was logged."""
    points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    return [step for step, _ in points], [value for _, value in points]


def _is_whole(row: Mapping[str | None, object]) -> bool:
    step = str(row.get("step") or "")
    return step.isdecimal() and len(step) < 20 and None not in row and None not in row.values()


def _check_number(path: Path, step: str, key: str, value: str) -> None:
    try:
        float(value or 0)
    except ValueError:
        raise ConfigError(f"{path}: {key} at step {step} is {value[:40]!r}, not a number") from None
