import os
import platform
import subprocess
import sys

import pytest
import torch

from neobert import cores as cores_module
from neobert.config.trainer import TrainerConfig
from neobert.training import cpu

PROGRAM = """
import resource
import torch
from neobert.training.cpu import keep_freed_memory
if {tuned}:
    assert keep_freed_memory()
for _ in range(20):  # until the heap has found its size
    torch.ones(2**24)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(tuned: bool) -> int:
    command = [sys.executable, "-c", PROGRAM.format(tuned=tuned)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_is_kept_is_not_fetched_anew() -> None:
    # Untuned, 16,384 pages for each of five tensors (fewer where pages are huge).
    assert page_faults(tuned=True) < page_faults(tuned=False) / 10


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1)]
)
def test_a_containers_quota_limits_the_cores(monkeypatch, tmp_path, limit, cores) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(cores_module, "CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert cores_module.available_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("400000", 4)])
def test_the_older_kind_of_quota_counts_too(monkeypatch, tmp_path, quota, cores) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    monkeypatch.setattr(cores_module, "CGROUP_V2", tmp_path / "absent")
    monkeypatch.setattr(cores_module, "CGROUP_V1", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert cores_module.available_cores() == cores


def test_ranks_of_one_machine_share_its_cores(monkeypatch) -> None:
    monkeypatch.setattr(cpu, "available_cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert cpu.threads_per_process() == 2


@pytest.mark.proves("trainer.tune_cpu")
def test_processes_that_are_started_share_the_cores(monkeypatch, caplog) -> None:
    monkeypatch.setattr(cpu, "available_cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # so that it is as before afterwards
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    try:
        with caplog.at_level("INFO", "neobert"):
            cpu.tune_cpu_if_enabled(TrainerConfig(devices=2, use_cpu=True))
    finally:
        torch.set_num_threads(before)
    assert "CPU: 3 threads" in caplog.text
    assert os.environ["OMP_NUM_THREADS"] == "3"  # what they inherit


@pytest.mark.proves("trainer.tune_cpu")
@pytest.mark.parametrize(("asked", "lines"), [(True, 1), (False, 0)])
def test_it_can_be_left_out(caplog, asked, lines) -> None:
    with caplog.at_level("INFO", "neobert"):
        cpu.tune_cpu_if_enabled(TrainerConfig(tune_cpu=asked, use_cpu=True))
    assert len(caplog.records) == lines


def test_one_line_says_what_was_done(caplog) -> None:
    with caplog.at_level("INFO", "neobert"):
        line = cpu.tune_cpu()
    assert [record.message for record in caplog.records] == [line]
    assert "threads" in line
    assert "trainer.tune_cpu=false" in line
