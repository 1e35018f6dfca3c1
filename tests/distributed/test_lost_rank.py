"""A rank that dies ends the run soon, with one clear error, and no checkpoint is lost."""

import signal
import time
from pathlib import Path

import pytest
import torch
from distributed_runs import LIMIT, Run, difference, start_ranks, train

from neobert.training.manifest import damages

SOON = 30.0
"""Seconds; the ranks' timeout is 60, so this is not it."""


@pytest.mark.slow
@pytest.mark.proves("trainer.rank_timeout")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_killed_rank_ends_the_run_and_the_last_checkpoint_goes_on(
    tmp_path: Path, strategy: str
) -> None:
    first = Run(strategy, steps=4)
    cases = {"first": (first, None), "lost": (Run(strategy, dies_at=7), "first")}
    left, killed = start_ranks(tmp_path, cases)
    killed.join(LIMIT)
    start = time.monotonic()
    left.join(SOON)
    assert killed.exitcode == -signal.SIGKILL
    assert left.exitcode == 1
    assert time.monotonic() - start < SOON
    error = str(torch.load(tmp_path / "lost-0.pt")["error"])
    assert "LostRank: another process of this run died" in error
    assert "trainer.resume_from_checkpoint=latest" in error
    checkpoint = Path(str(torch.load(tmp_path / "first-0.pt")["checkpoint"]))
    assert damages(checkpoint) == []
    assert difference(train(Run(), tmp_path / "on", checkpoint), train(Run(), tmp_path)) < 5e-5
