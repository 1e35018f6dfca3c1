"""Shares of the machine that jobs get which run at the same time."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from neobert.sweep_jobs import Job, read_job, share_of_gpus, varied_overrides, visible_devices


@pytest.mark.parametrize(
    ("visible", "n_jobs", "wanted", "shares"),
    [
        ("0,1,2,3", 2, 1, ["0", "1"]),
        ("4,5,6,7", 2, 2, ["4,5", "6,7"]),
        ("0,1", 3, 1, ["0", "1", "0"]),  # more jobs than GPUs: some share one
        ("0,1", 1, 1, [None]),  # a job that runs alone has all
        ("", 2, 1, [None, None]),
    ],
)
def test_gpus_are_dealt_out(
    visible: str, n_jobs: int, wanted: int, shares: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [share_of_gpus(slot, n_jobs, None, wanted) for slot in range(n_jobs)] == shares


def test_devices_of_the_launcher_are_stronger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert share_of_gpus(1, 2, ["2", "3"], 1) == "3"


def test_a_machine_without_gpus_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", os.devnull)
    assert visible_devices() == []


def test_a_job_is_shown_by_what_differs() -> None:
    jobs = [["a=1", "b=1"], ["a=1", "b=2"]]
    assert varied_overrides(jobs[1], jobs) == ["b=2"]
    assert varied_overrides(jobs[0], jobs[:1]) == ["a=1", "b=1"]


@pytest.mark.parametrize(
    ("change", "is_read"),
    [
        ({}, True),
        ({"objective": 2}, True),
        ({"folder": 5}, False),
        ({"overrides": "seed=1"}, False),
        ({"code": "0"}, False),
        ({"objective": "good"}, False),
        ({"more": 1}, False),
    ],
)
def test_a_damaged_record_of_a_job_does_not_count(
    change: dict[str, object], is_read: bool, tmp_path: Path
) -> None:
    record = tmp_path / "job.json"
    record.write_text(json.dumps({**asdict(Job(0, ["seed=1"], "a", 0, 1.5)), **change}))
    assert (read_job(record) is not None) == is_read
    for text in ("", "null", "[1]", "[" * 100_000):
        record.write_text(text)
        assert read_job(record) is None
