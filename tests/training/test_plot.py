from pathlib import Path

import pytest

from neobert.training.metrics_file import MetricsFile
from neobert.training.plot import plot_losses


def test_the_plot_is_a_picture_of_some_size(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (10, 20, 30):
        file.log_metrics({"train/loss": 5.0 - step / 10}, step)
    file.log_metrics({"eval/loss": 2.5}, 30)
    file.save()
    plot_losses(tmp_path / "metrics.csv", tmp_path / "loss.png", {"unigram": 6.0})
    picture = (tmp_path / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5_000


@pytest.mark.parametrize("lost", ["metrics.csv", "loss.png"])
def test_a_plot_that_cannot_be_drawn_fails_no_run(tmp_path: Path, lost: str, caplog) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n10,2.5\n")
    (tmp_path / lost).unlink(missing_ok=True)
    (tmp_path / lost).mkdir()
    plot_losses(tmp_path / "metrics.csv", tmp_path / "loss.png", {})
    assert len(caplog.messages) == 1
    assert "loss.png was not drawn" in caplog.messages[0]
    assert lost in caplog.messages[0]
