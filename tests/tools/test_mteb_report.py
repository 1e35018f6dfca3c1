"""Means as the benchmark defines them, shown only when nothing is missing."""

import json
from pathlib import Path

import mteb
import pytest

from neobert.tasks.mteb.run import OWN_TASKS
from neobert.tools.mteb_report import main

V2 = "MTEB(eng, v2)"


def write_results(folder: Path, scores: dict[str, float], digest: str = "abc") -> None:
    """What task=mteb leaves: a file per task in mteb's format."""
    place = folder / f"mteb/20/results/neobert__toy-20/{digest}-avg-64"
    place.mkdir(parents=True)
    meta = {"name": "neobert/toy-20", "revision": f"{digest}-avg-64"}
    (place / "model_meta.json").write_text(json.dumps(meta))
    for name, score in scores.items():
        task = mteb.get_benchmark(V2).tasks
        known = {one.metadata.name: one for one in task}.get(name)
        splits = known.eval_splits if known else ["test"]
        subsets = known.hf_subsets if known else ["default"]
        rows = [
            {"hf_subset": subset, "languages": ["eng-Latn"], "main_score": score}
            for subset in subsets
        ]
        result = {
            "dataset_revision": "x",
            "task_name": name,
            "mteb_version": "2.26.24",
            "scores": {split: rows for split in splits},
            "evaluation_time": 1.0,
            "kg_co2_emissions": None,
        }
        (place / f"{name}.json").write_text(json.dumps(result))


@pytest.fixture
def all_of_v2() -> dict[str, float]:
    """A score for each task, all different."""
    names = [task.metadata.name for task in mteb.get_benchmark(V2).tasks]
    return {name: 0.3 + 0.01 * number for number, name in enumerate(names)}


def test_a_complete_benchmark_has_its_own_means_beside_published_ones(tmp_path, all_of_v2) -> None:
    write_results(tmp_path / "run", {**all_of_v2, "STSBenchmark.v2": 0.99})
    output = tmp_path / "out/report"
    assert main([str(tmp_path / "run"), "--benchmark", V2, "--output", str(output)]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    (means,) = report["means"].values()
    types: dict[str, list[float]] = {}
    for task in mteb.get_benchmark(V2).tasks:
        types.setdefault(task.metadata.type, []).append(all_of_v2[task.metadata.name])
    by_type = {kind: sum(found) / len(found) for kind, found in types.items()}
    assert means == pytest.approx(
        {
            **by_type,
            "Mean (Task)": sum(all_of_v2.values()) / len(all_of_v2),
            "Mean (TaskType)": sum(by_type.values()) / len(by_type),
        }
    )
    table = (tmp_path / "out/report.md").read_text()
    assert "| toy-20 (avg-64) |" in table
    assert "| mmBERT-base (published) |" in table
    assert "53.90" in table
    assert "STSBenchmark.v2" not in table
    assert (tmp_path / "out/report.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_listed_and_makes_no_mean(tmp_path, all_of_v2) -> None:
    del all_of_v2["STS12"]
    write_results(tmp_path / "run", all_of_v2)
    output = tmp_path / "report"
    assert main([str(tmp_path / "run"), "--benchmark", V2, "--output", str(output)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    (means,) = report["means"].values()
    assert "Retrieval" in means
    assert {"STS", "Mean (Task)", "Mean (TaskType)"}.isdisjoint(means)
    assert "No result of toy-20 (avg-64): STS12." in (tmp_path / "report.md").read_text()


def test_models_are_compared_on_all_tasks_that_any_has(tmp_path) -> None:
    write_results(tmp_path / "a", {"Mine": 0.5, "STS12": 0.25})
    (tmp_path / "a/mteb/20" / OWN_TASKS).write_text('{"Mine": "Clustering"}')
    write_results(tmp_path / "b", {"STS12": 0.75}, digest="def")
    output = tmp_path / "report.md"
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(output)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["published"] == []
    first, second = report["means"].values()
    assert first == {
        "Clustering": 0.5,
        "STS": 0.25,
        "Mean (Task)": 0.375,
        "Mean (TaskType)": 0.375,
    }
    assert second == {"STS": 0.75}
    assert list(report["means"]) == ["toy-20 (avg-64)", "toy-20 (avg-64) def-av"]


def test_wrong_words_are_told(tmp_path, capsys) -> None:
    assert main([str(tmp_path)]) == 1
    assert "there are no results of task=mteb below it" in capsys.readouterr().err
    assert main([str(tmp_path), "--benchmark", "MTEB(nonsense)"]) == 1
    assert "mteb has no such benchmark" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[1]", "{}", "\xff", "[" * 100_000])
@pytest.mark.parametrize("name", ["model_meta.json", "STS12.json"])
def test_a_damaged_file_of_results_is_named(tmp_path, capsys, name: str, text: str) -> None:
    write_results(tmp_path / "run", {"STS12": 0.5})
    (file,) = tmp_path.glob(f"run/mteb/20/results/*/*/{name}")
    file.write_text(text, encoding="latin-1")
    assert main([str(tmp_path / "run"), "--output", str(tmp_path / "report")]) == 1
    assert f"{name}: cannot be read" in capsys.readouterr().err
