"""Several torchrun agents on this machine, as on several machines: they train, resume, and go on
with fewer when one is lost."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from neobert.tools.launch import main
from tests.tasks.pretraining.conftest import TINY, WORDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDING = 1e-3
"""Of weights after some dozens of steps, relative to the largest weight of each tensor."""

Agents = list[subprocess.Popen[bytes]]


@pytest.fixture
def settings(tmp_path: Path) -> tuple[str, ...]:
    """A tiny run on the CPU, which writes below ``tmp_path``."""
    lines = [" ".join(WORDS[(3 * row) % 7 : 8 + row % 9]) for row in range(90)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines) + "\n")
    return (
        *TINY,
        f"dataset.path={tmp_path / 'corpus.txt'}",
        f"dataset.cache_dir={tmp_path / 'cache'}",
        "trainer.use_cpu=true",
        "trainer.strategy=ddp",
        "trainer.eval_strategy=no",
        "trainer.save_total_limit=null",
        "optimizer.lr=1e-3",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command: list[str], **environment: str) -> subprocess.Popen[bytes]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, env=names)


def lose(agent: subprocess.Popen[bytes]) -> None:
    """Kill an agent and its workers, as when a machine is gone."""
    workers = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    for process in (agent.pid, *map(int, workers)):
        os.kill(process, signal.SIGKILL)
    agent.wait()


def end(agents: Agents) -> list[int]:
    try:
        return [agent.wait(600) for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                lose(agent)


def alone(settings: tuple[str, ...], folder: Path, *words: str) -> Path:
    """The same run in one process."""
    output = folder / "alone"
    asked = [*settings, *words, "trainer.strategy=single", f"trainer.output_dir={output}"]
    subprocess.run([sys.executable, "-m", "neobert.train", *asked], check=True)
    return output


def difference(one: Path, two: Path) -> float:
    left, right = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    return max(
        float((left[name] - right[name]).abs().max() / right[name].abs().max()) for name in left
    )


def steps(run: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    found = (run / "checkpoints").glob("*/manifest.json")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())


def test_two_agents_train_and_resume_by_the_job_for_kubernetes(
    tmp_path: Path, settings: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run, port = tmp_path / "run", str(free_port())
    words = (*settings, f"trainer.output_dir={run}", "trainer.num_nodes=2", "trainer.devices=1")
    assert main(["--to", "k8s", "--image", "image", "--name", "pair", *words]) == 0
    job = yaml.safe_load(capsys.readouterr().out)["spec"]["replicatedJobs"][0]["template"]["spec"]
    script = job["template"]["spec"]["containers"][0]["command"][2]
    script = script.replace("pair-node-0-0.pair", "127.0.0.1").replace("29500", port)
    for steps_so_far, more in ((4, ""), (8, " trainer.max_steps=8 trainer.accept_changes=[all]")):
        pods = [start(["bash", "-c", script + more], JOB_COMPLETION_INDEX=f"{i}") for i in (0, 1)]
        assert end(pods) == [0, 0]
        assert steps(run)[-1] == steps_so_far
    torch.set_num_threads(1)
    half = ("trainer.per_device_train_batch_size=8", "trainer.max_steps=4")
    other = alone(settings, tmp_path, *half)
    assert difference(run / "checkpoints/4", other / "checkpoints/4") < ROUNDING


def test_a_run_goes_on_with_the_agents_that_are_left(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    batch = ("trainer.global_batch_size=12", "trainer.max_steps=100", "trainer.save_steps=4")
    words = (*settings, *batch, f"trainer.output_dir={run}")
    quick = "last_call_timeout=8,keep_alive_interval=1,keep_alive_max_attempt=3"
    command = ["torchrun", "--nnodes", "2:4", "--nproc-per-node", "1", "--max-restarts", "8"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    command += ["--rdzv-id", "elastic", "--rdzv-conf", quick, "-m", "neobert.train", *words]
    command += ["trainer.resume_from_checkpoint=latest", "trainer.rank_timeout=60"]
    # Else the ranks of a new round read addresses of the last one from the agents' store.
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    agents = [start(command, **fresh)]
    time.sleep(2)  # the first one holds the store, and is not lost
    agents += [start(command, **fresh) for _ in range(3)]
    try:
        for kept in (3, 2):
            before = max(steps(run), default=0)
            limit = time.monotonic() + 300
            while max(steps(run), default=0) <= before and time.monotonic() < limit:
                assert agents[0].poll() is None
                time.sleep(0.02)
            assert max(steps(run)) < 100
            lose(agents.pop())
            assert len(agents) == kept
    finally:
        codes = end(agents)
    assert codes == [0, 0]
    other = alone(settings, tmp_path, *batch)
    assert difference(run / "checkpoints/100", other / "checkpoints/100") < ROUNDING


def batches(run: Path, rank: int, first: int, last: int) -> list[str]:
    """Digests of what a rank was fed in these steps."""
    lines = (run / f"batches-{rank}.csv").read_text().splitlines()
    return lines[first : last + 1]  # after a header, a line for each step from 1 on


def test_ranks_that_come_and_go_are_fed_the_same_and_equal_weights_resume_to_the_bit(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    words = ("trainer.global_batch_size=8", "trainer.max_steps=12", "trainer.save_steps=2")
    kept = ("trainer.save_total_limit=0", "trainer.log_batch_digests=true")

    def train(name: str, ranks: int, before: str = "", step: int = 0) -> Path:
        """A run, or what another one becomes from a step on with so many ranks."""
        run = tmp_path / name
        if before:
            shutil.copytree(tmp_path / before, run)
        resume = f"trainer.resume_from_checkpoint={step or 'null'}"
        more = (*words, *kept, f"trainer.devices={ranks}", f"trainer.output_dir={run}", resume)
        strategy = "trainer.strategy=ddp" if ranks > 1 else "trainer.strategy=single"
        command = [sys.executable, "-m", "neobert.train", *settings, *more, strategy]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return run

    two, one = train("two", 2), train("one", 1)
    fewer = train("fewer", 1, "two", 4)
    again = train("again", 2, "fewer", 8)
    resumed = train("resumed", 2, "again", 10)

    assert batches(fewer, 0, 5, 12) == batches(one, 0, 5, 12)
    for rank in (0, 1):
        assert batches(again, rank, 9, 12) == batches(two, rank, 9, 12)
        assert len(set(batches(two, rank, 1, 12))) == 12
    for end in (fewer, again):
        assert difference(end / "checkpoints/12", two / "checkpoints/12") < ROUNDING
    left, right = (load_file(run / "checkpoints/12/model.safetensors") for run in (again, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)
    straight = train("straight", 2, "two", 4)
    left, right = (load_file(run / "checkpoints/12/model.safetensors") for run in (two, straight))
    assert all(torch.equal(left[name], right[name]) for name in left)
