"""Jobs for clusters: run by shells, with programs that note how they were called, and checked
against what the clusters take."""

import os
import re
import subprocess
from itertools import chain
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from neobert.config.compose import compose_config
from neobert.errors import ConfigError
from neobert.tools.launch import main

SETTINGS = (
    "experiment=quickstart",
    "strategy=ddp",
    "trainer.num_nodes=2",
    "trainer.devices=8",
    "trainer.output_dir=runs/Big_Run",
    "wandb.name=two words",
)
FAKE = """#!/bin/bash
printf '%s\\0' "$@" > "$NOTES/{name}"
exit "${{CODE:-0}}"
"""

Fields = dict[str, object]
# Names and types of the fields that are used, from the JobSet's custom resource definition
# (config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml, v1alpha2) and, below, from
# sky/utils/schemas.py of SkyPilot 0.14 (get_task_schema, get_resources_schema).
CONTAINER: Fields = {
    "name": str,
    "image": str,
    "command": [str],
    "workingDir": str,
    "ports": [{"containerPort": int}],
    "resources": {"limits": {"cpu": int, "nvidia.com/gpu": int}},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD: Fields = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": str,
            "emptyDir": {"medium": str},
            "persistentVolumeClaim": {"claimName": str},
        }
    ],
}
JOB: Fields = {
    "parallelism": int,
    "completions": int,
    "completionMode": str,
    "backoffLimit": int,
    "template": {"spec": POD},
}
JOBSET: Fields = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "failurePolicy": {"maxRestarts": int},
        "network": {"enableDNSHostnames": bool},
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}
TASK: Fields = {
    "name": str,
    "num_nodes": int,
    "workdir": str,
    "resources": {
        "accelerators": str,
        "cpus": str,
        "job_recovery": {"max_restarts_on_errors": int},
    },
    "volumes": {"/data": str},
    "setup": str,
    "run": str,
}


def misfits(value: object, schema: object, path: str = "") -> list[str]:
    """Where ``value`` has a field that the schema does not know, or one of another type."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [path]
        unknown = [f"{path}.{name}" for name in value if name not in schema]
        inner = [
            misfits(one, schema[name], f"{path}.{name}")
            for name, one in value.items()
            if name in schema
        ]
        return [*unknown, *chain.from_iterable(inner)]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [path]
        return [wrong for one in value for wrong in misfits(one, schema[0], f"{path}[]")]
    return [] if type(value) is schema else [path]


def rendered(
    capsys: pytest.CaptureFixture[str], to: str, *words: str, settings: tuple[str, ...] = SETTINGS
) -> str:
    assert main(["--to", to, *words, *settings]) == 0
    return capsys.readouterr().out


def shell(script: str, folder: Path, **environment: str) -> tuple[int, dict[str, list[str]]]:
    """Run a script; how it ended, and how it called the programs of the cluster."""
    programs, notes = folder / "programs", folder / "notes"
    programs.mkdir(exist_ok=True)
    notes.mkdir(exist_ok=True)
    for name in ("srun", "scontrol", "torchrun"):
        (programs / name).write_text(FAKE.format(name=name))
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NOTES": str(notes), **environment}
    code = subprocess.run(["bash", "-c", script], env=environment, check=False).returncode
    calls = {note.name: note.read_text().split("\0")[:-1] for note in notes.iterdir()}
    return code, calls


def same_run(words: list[str]) -> bool:
    """Whether the words of a job are the run that was requested, which continues by itself."""
    asked = compose_config([*SETTINGS, "trainer.resume_from_checkpoint=latest"])
    return compose_config(words) == asked


def test_slurm_starts_a_task_per_device(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = rendered(capsys, "slurm", "--sbatch", "partition=gpu", "--cpus", "9")
    options = {line[10:] for line in script.splitlines() if line.startswith("#SBATCH --")}
    assert options >= {
        "job-name=big-run",
        "nodes=2",
        "ntasks-per-node=8",
        "gpus-per-node=8",
        "cpus-per-task=9",
        "signal=SIGTERM@120",
        "requeue",
        "partition=gpu",
    }
    code, calls = shell(script, tmp_path)
    assert code == 0
    assert calls["srun"][:4] == ["--kill-on-bad-exit=0", "python", "-m", "neobert.train"]
    assert same_run(calls["srun"][4:])
    assert "scontrol" not in calls


@pytest.mark.parametrize(
    ("code", "starts", "requeued"), [("75", "0", True), ("75", "3", False), ("1", "0", False)]
)
def test_slurm_requeues_what_was_interrupted_and_nothing_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, code: str, starts: str, requeued: bool
) -> None:
    script = rendered(capsys, "slurm", "--restarts", "3")
    # The last command of the script is scontrol's, which ends with the same code here.
    ended, calls = shell(script, tmp_path, CODE=code, SLURM_JOB_ID="17", SLURM_RESTART_COUNT=starts)
    assert ended == int(code)
    assert calls.get("scontrol") == (["requeue", "17"] if requeued else None)


def test_a_run_on_cpus_requests_no_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    settings = (*SETTINGS, "trainer.use_cpu=true")
    image = ("--image", "neobert:1")
    for cluster in ("slurm", "k8s", "skypilot"):
        text = rendered(capsys, cluster, *image, settings=settings).lower()
        assert "gpus-per-node" not in text
        assert "nvidia.com" not in text
        assert "accelerators" not in text


def test_kubernetes_runs_torchrun_in_a_pod_per_node(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--image", "registry/neobert:1", "--volume", "corpus:/data", "--restarts", "7")
    jobset = yaml.safe_load(rendered(capsys, "k8s", *options))
    assert misfits(jobset, JOBSET) == []
    assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 7}
    (nodes,) = jobset["spec"]["replicatedJobs"]
    job = nodes["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (2, 2, "Indexed")
    container = job["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in job["template"]["spec"]["volumes"]}
    assert container["workingDir"] == "/data"
    assert container["command"][:2] == ["bash", "-c"]
    _, calls = shell(container["command"][2], tmp_path, JOB_COMPLETION_INDEX="1")
    call = get_args_parser().parse_args(calls["torchrun"])
    assert (call.nnodes, call.nproc_per_node, call.node_rank) == ("2", "8", 1)
    # <name>-<replicated job>-<job>-<pod>.<subdomain>, says the definition of enableDNSHostnames
    assert call.master_addr == "big-run-node-0-0.big-run"
    assert call.training_script == "neobert.train"
    assert same_run(call.training_script_args)


def test_skypilot_runs_torchrun_on_each_node(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    task = yaml.safe_load(
        rendered(capsys, "skypilot", "--gpu", "[H200, 'L4']", "--volume", "v:/data")
    )
    assert misfits(task, TASK) == []
    assert task["num_nodes"] == 2
    assert task["resources"]["accelerators"] == "[H200, 'L4']:8"
    assert task["volumes"] == {"/data": "v"}
    assert task["run"].startswith("cd /data\n")
    run = task["run"].replace("cd /data", f"cd {tmp_path}")
    machine = {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    _, calls = shell(run, tmp_path, SKYPILOT_NUM_NODES="2", **machine)
    call = get_args_parser().parse_args(calls["torchrun"])
    assert (call.nnodes, call.node_rank, call.master_addr) == ("2", 1, "10.0.0.1")
    assert same_run(call.training_script_args)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["trainer.devices=auto"], "trainer.devices=auto"),
        (["trainer.resume_from_checkpoint=300"], "trainer.resume_from_checkpoint=300"),
        (["trainer.output_dir=runs/${now:%Y}"], "${now:"),
        (["-m"], "--multirun"),
        (["--name", "Big_Run"], "--name Big_Run"),
        (["--name", "bash"], "--name bash"),
        (["--sbatch", "partition gpu"], "--sbatch partition gpu"),
        (["--time", "tomorrow"], "--time tomorrow"),
        (["--restarts", "-1"], "--restarts -1"),
        (["--cpus", "0"], "--cpus 0"),
        (["--volume", "data"], "--volume data"),
        (["optimizer.lr=-1"], "optimizer.lr"),
        (["task=glue"], "glue starts from no weights"),
        (["--to", "k8s"], "--image"),
    ],
)
def test_what_cannot_be_a_job_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        main(["--to", "slurm", *SETTINGS, *words])
    assert capsys.readouterr().out == ""


def test_a_file_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.sh"
    words = ["--to", "slurm", "--output", str(file), *SETTINGS]
    assert main(words) == 0
    written = file.read_text()
    assert written == rendered(capsys, "slurm")
    with pytest.raises(ConfigError, match="exists"):
        main(words)
    assert file.read_text() == written
