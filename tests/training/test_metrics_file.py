import logging
from pathlib import Path

import pytest

from neobert.errors import ConfigError
from neobert.training.metrics_file import MetricsFile, read_metrics, series


def test_rows_of_one_step_are_one_row(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"train/loss": 2.5}, step=10)
    file.save()
    file.log_metrics({"eval/loss": 2.0}, step=10)
    file.log_metrics({"train/loss": 1.5}, step=20)
    file.save()
    rows = read_metrics(tmp_path / "metrics.csv")
    assert rows == [
        {"step": "10", "train/loss": "2.5", "eval/loss": "2.0"},
        {"step": "20", "train/loss": "1.5", "eval/loss": ""},
    ]
    assert series(rows, "eval/loss") == ([10], [2.0])


def test_a_resumed_run_drops_what_the_lost_steps_had_written(tmp_path: Path) -> None:
    first = MetricsFile(tmp_path / "metrics.csv")
    for step in (10, 20, 30):
        first.log_metrics({"train/loss": float(step)}, step=step)
        first.save()
    second = MetricsFile(tmp_path / "metrics.csv", resume_step=20)
    second.log_metrics({"train/loss": 31.0}, step=30)
    second.save()
    steps, losses = series(read_metrics(tmp_path / "metrics.csv"), "train/loss")
    assert steps == [10, 20, 30]
    assert losses == [10.0, 20.0, 31.0]


def test_a_new_run_starts_an_empty_file(tmp_path: Path) -> None:
    log(tmp_path / "metrics.csv", a=1.0)
    MetricsFile(tmp_path / "metrics.csv")
    assert read_metrics(tmp_path / "metrics.csv") == []


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n10,2.5\n20")
    assert [row["step"] for row in read_metrics(path)] == ["10"]


def test_numbers_survive_to_the_last_digit(tmp_path: Path) -> None:
    log(tmp_path / "metrics.csv", a=0.1 + 0.2)
    assert float(read_metrics(tmp_path / "metrics.csv")[0]["a"]) == 0.1 + 0.2


def test_a_column_that_has_a_value_only_after_the_resumed_step_can_be_written_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path)
    first.log_metrics({"train/a": 1.0}, step=1)
    first.log_metrics({"train/b": 2.0}, step=2)
    first.save()
    resumed = MetricsFile(path, resume_step=1)
    resumed.log_metrics({"train/b": 3.0}, step=2)
    resumed.save()
    assert series(read_metrics(path), "train/b") == ([2], [3.0])


def log(path: Path, step: int = 1, **metrics: float) -> MetricsFile:
    file = MetricsFile(path)
    file.log_metrics(metrics, step)
    file.save()
    return file


class CountedWrites(MetricsFile):
    """Counts the bytes of all lines that are written."""

    written = 0

    def _line(self, row: dict[str, str]) -> bytes:
        line = super()._line(row)
        self.written += len(line)
        return line


def test_it_writes_as_many_bytes_as_the_file_has(tmp_path: Path) -> None:
    file = CountedWrites(tmp_path / "metrics.csv")
    for step in range(1, 501):
        file.log_metrics({"train/loss": step / 7}, step)
        file.log_metrics({"train/mfu": step / 9}, step)  # another callback, the same step
        file.save()
    size = (tmp_path / "metrics.csv").stat().st_size
    assert size > 10_000
    assert file.written - size < 200  # the first header had other columns


def test_a_row_that_cannot_be_written_waits_and_the_run_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "metrics.csv"
    file = log(path, 1, a=1.0)
    (tmp_path / "run").rename(tmp_path / "away")
    with caplog.at_level(logging.WARNING, logger="neobert"):
        for step in (2, 3):
            file.log_metrics({"a": float(step), "b": 0.5}, step)
            file.save()
    assert caplog.text.count("cannot be written") == 1
    (tmp_path / "away").rename(tmp_path / "run")
    file.log_metrics({"a": 4.0}, 4)
    file.save()
    assert series(read_metrics(path), "a") == ([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0])
    assert series(read_metrics(path), "b") == ([2, 3], [0.5, 0.5])


def test_a_line_that_could_only_be_written_in_part_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = log(path, 1, a=1.0)
    with path.open("a") as half:
        half.write("2,0.")
    file.log_metrics({"a": 2.0}, 2)
    file.save()
    assert path.read_text() == "step,a\n1,1.0\n2,2.0\n"


@pytest.mark.parametrize(
    "content",
    [b"\x00\xff\xfe", b"a,b\n1,2\n", "step,a\n1,\xe9\n".encode("latin-1"), b"step,a\n1,x\n"],
)
def test_what_is_no_metrics_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=r"metrics\.csv"):
        read_metrics(tmp_path / "metrics.csv")
