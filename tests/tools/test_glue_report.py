"""A report of fine-tuning runs: the best setting, its spread, and no average of half the tasks."""

import json
from pathlib import Path

import pytest

from neobert.errors import ConfigError
from neobert.tasks.glue.published import GLUE_8, PUBLISHED
from neobert.tools.fine_tuning_report import best_results, find_runs
from neobert.tools.fine_tuning_report import main as report_all
from neobert.tools.glue_report import glue_average, glue_page, main


def write_run(
    folder: Path, task: str, score: float | None, kind: str = "glue", **settings: object
) -> None:
    values = {"seed": 0, "lr": 1e-5, "batch_size": 32, "epochs": 3.0, **settings}
    folder.mkdir(parents=True)
    summary = {
        "task": kind,
        "task_name": task,
        "model": "ours",
        "weights": {"kind": "encoder"},
        "settings": values,
        "score": score,
        "score_step": 20,
        "data": {"train": 1000},
        "derived": {"steps_per_epoch": 10},
    }
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """CoLA under two learning rates with two seeds each, RTE once."""
    for number, (rate, seed, score) in enumerate(
        [(1e-5, 0, 0.50), (1e-5, 1, 0.54), (3e-5, 0, 0.60), (3e-5, 1, 0.40)]
    ):
        write_run(tmp_path / str(number), "cola", score, lr=rate, seed=seed)
    write_run(tmp_path / "deep/er", "rte", 0.7)
    write_run(tmp_path / "unfinished", "sst2", None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/summary.json").write_text('{"task": "pretraining", "score": 1.0}')
    return tmp_path


def test_the_setting_with_the_best_mean_is_reported(sweep: Path) -> None:
    cola, rte = best_results(find_runs(sweep))
    assert (cola.task, cola.runs, cola.settings_tried) == ("cola", 2, 2)
    assert cola.mean == pytest.approx(52)  # not the single best run, 60
    assert cola.sd == pytest.approx(8**0.5)
    assert cola.setting["lr"] == 1e-5
    assert cola.epochs == 2
    assert (rte.task, rte.sd, rte.scores) == ("rte", None, {"0": pytest.approx(70)})


def test_runs_on_a_part_of_the_data_are_another_setting(sweep: Path) -> None:
    summary = json.loads((sweep / "deep/er/summary.json").read_text())
    (sweep / "part").mkdir()
    summary |= {"data": {"train": 10}, "score": 0.5}
    (sweep / "part/summary.json").write_text(json.dumps(summary))
    rte = best_results(find_runs(sweep))[1]
    assert (rte.runs, rte.settings_tried, rte.setting["examples"]) == (1, 2, 1000)


def test_a_missing_task_is_said_and_never_averaged_away(sweep: Path) -> None:
    results = best_results(find_runs(sweep))
    value, missing = glue_average(results, "ours")
    assert value is None
    assert missing == [task for task in GLUE_8 if task not in ("cola", "rte")]
    assert f"missing: {', '.join(missing)}" in glue_page(results)


def test_all_eight_tasks_have_an_average(tmp_path: Path) -> None:
    for number, task in enumerate(GLUE_8):
        write_run(tmp_path / task, task, 0.80 + number / 100)
    write_run(tmp_path / "wnli", "wnli", 0.1)  # not part of it
    value, missing = glue_average(best_results(find_runs(tmp_path)), "ours")
    assert missing == []
    assert value == pytest.approx(83.5)


def test_a_report_is_a_page_data_and_a_plot(sweep: Path, tmp_path: Path) -> None:
    assert main([str(sweep), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/glue.md").read_text()
    assert "| ours | cola | 52.0 ± 2.8 | 2 | 1,000 | 1e-05 | 32 | 2 | 2 |" in page
    assert "arXiv 2502.19587" in page
    data = json.loads((tmp_path / "report/glue.json").read_text())
    assert data["averages"]["ours"]["average"] is None
    assert (tmp_path / "report/glue.png").read_bytes().startswith(b"\x89PNG")


def test_all_tasks_have_a_report_by_the_same_code(sweep: Path, tmp_path: Path) -> None:
    for seed, score in enumerate((0.3, 0.4)):
        folder = sweep / f"tags{seed}"
        write_run(folder, "wnut17", score, "token_classification", seed=seed)
    assert report_all([str(sweep), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/fine_tuning.md").read_text()
    assert "| ours | wnut17 | 35.0 ± 7.1 | 2 | 1,000 | 1e-05 | 32 | 2 | 1 |" in page
    assert "| ours | cola | 52.0 ± 2.8 |" in page
    assert (tmp_path / "report/fine_tuning.png").stat().st_size > 1000
    assert main([str(sweep), "--output", str(tmp_path / "report")]) == 0
    assert "wnut17" not in (tmp_path / "report/glue.md").read_text()


def test_a_folder_without_runs_is_told(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 1


# Devlin et al. average other sets.
AVERAGED = [row for row in PUBLISHED if not row.model.startswith("BERT")]


@pytest.mark.parametrize("row", AVERAGED, ids=lambda row: row.model)
def test_a_published_average_is_that_of_its_scores(row: object) -> None:
    mean = sum(row.scores.values()) / len(row.scores)
    assert mean == pytest.approx(row.average, abs=0.1)
    assert "arXiv" in row.source


@pytest.mark.parametrize("change", [{"task_name": None}, {"derived": {"steps_per_epoch": 0}}])
def test_an_odd_summary_is_named(sweep: Path, change: dict[str, object]) -> None:
    file = sweep / "0" / "summary.json"
    summary = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in summary.items() if value is not None}))
    with pytest.raises(ConfigError, match=r"0/summary\.json: cannot be read"):
        find_runs(sweep)
