from pathlib import Path

from neobert.training.metrics_file import MetricsFile, read_metrics, series


def test_rows_of_one_step_are_one_row(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"train/loss": 2.5}, step=10)
    file.log_metrics({"eval/loss": 2.0}, step=10)
    file.log_metrics({"train/loss": 1.5}, step=20)
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
    second = MetricsFile(tmp_path / "metrics.csv", resume_step=20)
    second.log_metrics({"train/loss": 31.0}, step=30)
    steps, losses = series(read_metrics(tmp_path / "metrics.csv"), "train/loss")
    assert steps == [10, 20, 30]
    assert losses == [10.0, 20.0, 31.0]


def test_a_new_run_starts_an_empty_file(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.csv").log_metrics({"a": 1.0}, step=1)
    MetricsFile(tmp_path / "metrics.csv")
    assert read_metrics(tmp_path / "metrics.csv") == []


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n10,2.5\n20")
    assert [row["step"] for row in read_metrics(path)] == ["10"]


def test_numbers_survive_to_the_last_digit(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.csv").log_metrics({"a": 0.1 + 0.2}, step=1)
    assert float(read_metrics(tmp_path / "metrics.csv")[0]["a"]) == 0.1 + 0.2


def test_a_column_that_has_a_value_only_after_the_resumed_step_can_be_written_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path)
    first.log_metrics({"train/a": 1.0}, step=1)
    first.log_metrics({"train/b": 2.0}, step=2)
    resumed = MetricsFile(path, resume_step=1)
    resumed.log_metrics({"train/b": 3.0}, step=2)
    assert series(read_metrics(path), "train/b") == ([2], [3.0])
