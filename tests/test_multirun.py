"""Sweeps as a user starts them: each job a process with its own folder, none lost with another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neobert.config.store import load_config_file

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "dataset=local",
    "dataset.path=text.txt",
    "dataset.cache_dir=cache",
    "dataset.num_workers=0",
    "dataset.max_seq_length=32",
    "tokenizer.train_vocab_size=64",
    "model=neobert_tiny",
    "model.num_hidden_layers=1",
    "trainer.max_steps=1",
    "trainer.save_model=false",
    "trainer.output_dir=sweep",
)

pytestmark = pytest.mark.slow


def sweep(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "text.txt").write_text("one small text about the sea and the hills\n" * 40)
    return subprocess.run(
        [sys.executable, "-m", "neobert.train", "-m", *SMALL, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def jobs(folder: Path) -> list[dict]:
    return json.loads((folder / "sweep" / "sweep.json").read_text())


def test_a_failed_job_is_listed_and_loses_no_other(tmp_path: Path) -> None:
    done = sweep(tmp_path, "optimizer.lr=1e-3,1e30,2e-3", "trainer.max_steps=20")
    assert done.returncode == 1
    found = jobs(tmp_path)
    assert [job["code"] for job in found] == [0, 1, 0]
    assert "job 1: FAILED (exit code 1)" in done.stderr
    for job in (found[0], found[2]):
        summary = json.loads((Path(tmp_path / job["folder"]) / "summary.json").read_text())
        assert summary["objective"] == job["objective"] > 0
    assert len({job["folder"] for job in found}) == 3


def test_each_job_of_a_sweep_starts_its_own_processes(tmp_path: Path) -> None:
    """Lightning's launcher would start the sweep anew on the second process of each job."""
    devices = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.use_cpu=true"]
    done = sweep(tmp_path, "optimizer.lr=1e-3,2e-3", "trainer.max_steps=2", *devices)
    assert done.returncode == 0, done.stderr[-2000:]
    found = jobs(tmp_path)
    assert [job["code"] for job in found] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == [
        "0",
        "1",
    ]
    for job in found:
        folder = tmp_path / job["folder"]
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["steps"], summary["derived"]["devices"]) == (2, 2)
        rate = {"0": 1e-3, "1": 2e-3}[folder.name]
        assert load_config_file(folder / "config.yaml").optimizer.lr == rate
        assert done.stderr.count(f"job {job['number']}: optimizer.lr=") == 1


def test_optuna_searches_where_the_sweep_file_says(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done = sweep(tmp_path, "sweep=lr", "hydra.sweeper.n_trials=2")
    assert done.returncode == 0, done.stderr[-2000:]
    tried = [
        float(word.partition("=")[2])
        for job in jobs(tmp_path)
        for word in job["overrides"]
        if word.startswith("optimizer.lr=")
    ]
    assert len(tried) == 2
    assert all(1e-3 <= rate <= 3e-2 for rate in tried)
    results = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    assert "best_value" in results
