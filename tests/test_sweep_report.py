"""The tables of a sweep, from the records of its jobs."""

import csv
from dataclasses import asdict
from pathlib import Path

import pytest

from neobert.command import main
from neobert.errors import ExitCode
from neobert.files import write_json
from neobert.sweep_jobs import RECORD, Job


def test_a_sweep_that_was_killed_gets_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [(0, 2.5), (0, 1.25), (1, None), (None, None), (75, None)]
    for number, (code, objective) in enumerate(outcomes):
        overrides = ["task=pretraining", f"++optimizer.lr={number + 1}e-3", f"seed={number % 2}"]
        job = Job(number, overrides, str(tmp_path / str(number)), code, objective)
        write_json(asdict(job), tmp_path / f"{RECORD}{number}.json")
    assert main(["sweep-report", str(tmp_path)]) == ExitCode.DONE
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "| number | optimizer.lr | seed | objective | outcome | folder |"
    assert shown[3] == f"| 1 | 2e-3 | 1 | 1.25 | finished | {tmp_path}/1 |"
    assert "FAILED (exit code 1)" in shown[4]
    assert "not ended" in shown[5]
    assert "interrupted" in shown[6]
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [row["objective"] for row in rows] == ["2.5", "1.25", "", "", ""]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_sweep_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep-report", str(tmp_path)]) == ExitCode.WRONG_SETTINGS
    assert "it has no record of a job" in capsys.readouterr().err
