"""The launcher notices a lost rank, and SLURM's processes are taken as they are."""

import subprocess
import sys
from datetime import timedelta

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer

from neobert.training.ranks import LostRank, is_symptom, lost_rank_message
from neobert.training.strategy import DDP
from neobert.training.trainer import quiet_libraries

WATCH = """
import subprocess, sys, time
from neobert.console import show_messages
from neobert.training import ranks
show_messages()
ranks.GRACE = 0.2
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit({code})"])
ranks.Watch([child], period=0.1).start()
child.wait()
time.sleep({patience})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "patience", "expected", "words"),
    [(3, 60, 1, "process 1 of this run ended with exit code 3"), (0, 1, 0, ""), (75, 1, 0, "")],
)
def test_a_first_rank_that_waits_for_a_lost_one_ends(
    code: int, patience: float, expected: int, words: str
) -> None:
    script = WATCH.format(code=code, patience=patience)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == expected, done.stderr
    assert words in done.stderr


def test_a_signal_is_called_by_its_number() -> None:
    assert lost_rank_message(2, -9).startswith("process 2 of this run was killed by signal 9")


def test_only_what_another_rank_causes_counts_as_a_lost_rank() -> None:
    gone = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:1. This is typical")
    assert is_symptom(gone)
    assert not is_symptom(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert str(LostRank(gone)).endswith("([pair.cc:553] Connection closed by peer [127.0.0.1]:1)")


def test_slurms_processes_are_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
        "SLURM_NODELIST": "host[0-1]",
        "SLURM_NNODES": "2",
    }.items():
        monkeypatch.setenv(name, value)
    # Lightning notes the rank for the whole process: put back what it was, or the tests after
    # this one are those of rank 3.
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    quiet_libraries()
    strategy = DDP(timedelta(seconds=60))
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        num_nodes=2,
        strategy=strategy,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    environment = strategy.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert environment.creates_processes_externally
    assert (trainer.global_rank, trainer.world_size, trainer.node_rank) == (3, 4, 1)
    assert environment.main_address == "host0"
