"""Sweeps as a user starts them: each job a process with its own folder, none lost with another."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
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


SLURM = {
    "sbatch": """\
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
export SLURM_ARRAY_JOB_ID=100 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0
export SLURM_LOCALID=0 SLURM_JOB_NODELIST=localhost
for task in $(seq 0 "$last"); do
    SLURM_JOB_ID=$((100 + task)) SLURM_ARRAY_TASK_ID=$task bash "$1" > sbatch.log 2>&1 &
done
echo "Submitted batch job 100"
""",
    "srun": """\
while [ "${1#-}" != "$1" ]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
""",
    "sacct": "echo 'JobID|State'\n",
}
"""A SLURM that runs the tasks of a job array on this machine."""


MEETING = """\
import os, time
from pathlib import Path
from lightning.pytorch import Callback

class Meeting(Callback):
    def on_train_start(self, trainer, pl_module):
        Path(f"here-{os.getpid()}").touch()
        limit = time.monotonic() + 300
        while len(list(Path().glob("here-*"))) < 2:
            assert time.monotonic() < limit, "no other job came"
            time.sleep(0.05)
"""
"""A module with a callback that trains only when another job is, or was, about to train."""


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


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_other_launchers_keep_the_same_table(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    for name, text in SLURM.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tmp_path / name).chmod(0o755)
    os.environ["PATH"], before = f"{tmp_path}:{os.environ['PATH']}", os.environ["PATH"]
    try:
        broken = ("dataset.path=nowhere", f"hydra/launcher={launcher}")  # told by the job alone
        done = sweep(tmp_path, "seed=0,1", *broken)
    finally:
        os.environ["PATH"] = before
    assert done.returncode == 1, done.stderr[-2000:]
    assert [(job["number"], job["code"]) for job in jobs(tmp_path)] == [(0, 2), (1, 2)]
    assert "job 1: FAILED (exit code 2)  seed=1" in done.stderr


def test_jobs_run_at_the_same_time_in_a_folder_of_any_name(tmp_path: Path) -> None:
    """Also: a finished job is skipped, and a second sweep keeps the first one's table."""
    folder = tmp_path / "größe ü (1), a=b [c]'s &#"
    folder.mkdir()
    (folder / "meeting.py").write_text(MEETING)
    meet = "callbacks.meet={_target_: meeting.Meeting}"
    done = sweep(folder, meet, "optimizer.lr=1e-3,2e-3", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr[-2000:]
    first = {float(job["overrides"][-1].partition("=")[2]): job for job in jobs(folder)}
    runs = [Path(first[rate]["folder"]) for rate in (1e-3, 2e-3)]
    assert (folder / "sweep/sweep.png").is_file()

    done = sweep(folder, meet, "optimizer.lr=2e-3,4e-3")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"finished before, in {runs[1]}" in done.stderr
    second = {float(job["overrides"][-1].partition("=")[2]): job for job in jobs(folder)}
    assert set(second) == {1e-3, 2e-3, 4e-3}
    assert second[1e-3] == first[1e-3]
    assert second[2e-3]["folder"] == first[2e-3]["folder"]
    assert Path(second[4e-3]["folder"]).name == "1-2"  # 1 is the first sweep's
    rows = list(csv.DictReader((folder / "sweep/sweep.csv").read_text().splitlines()))
    assert {float(row["optimizer.lr"]): float(row["objective"]) for row in rows} == {
        rate: job["objective"] for rate, job in second.items()
    }


def test_a_sweep_of_optuna_continues_after_a_kill(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    command = [sys.executable, "-m", "neobert.train", "-m", "sweep=lr", "trainer.output_dir=sweep"]
    # Jobs that fail at their start, so that many are over soon.
    options = ["hydra.sweeper.storage=sqlite:///study.db", "+hydra.job.env_set.RANK=none"]

    def trials() -> int:
        try:
            storage = f"sqlite:///{tmp_path}/study.db"
            study = optuna.load_study(study_name="lr", storage=storage)
        except Exception:  # not there yet
            return 0
        return sum(trial.state.is_finished() for trial in study.trials)

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        [*command, *options, "hydra.sweeper.n_trials=100"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while trials() < 2 and time.monotonic() < deadline:
        time.sleep(0.3)
    started.send_signal(signal.SIGKILL)
    started.wait()
    killed_at = trials()
    done = subprocess.run(
        [*command, *options, "hydra.sweeper.n_trials=2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 1
    assert trials() == killed_at + 2
    assert len(jobs(tmp_path)) >= killed_at + 2


def test_a_signal_ends_the_jobs_which_save(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one small text about the sea and the hills\n" * 40)
    words = [*SMALL, "trainer.max_steps=100000", "trainer.save_model=true", "seed=0,1"]
    started = subprocess.Popen(
        [sys.executable, "-m", "neobert.train", "-m", *words, "trainer.logging_steps=1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "sweep/0/metrics.csv"
    deadline = time.monotonic() + 300
    while not (metrics.is_file() and metrics.read_text().count("\n") > 2):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    os.killpg(started.pid, signal.SIGTERM)  # as schedulers do: the whole group at once
    _, said = started.communicate(timeout=120)
    assert started.returncode == 75, said[-2000:]
    assert [job["code"] for job in jobs(tmp_path)] == [75, None]
    assert list((tmp_path / "sweep/0/checkpoints").iterdir())
    assert "Traceback" not in said
