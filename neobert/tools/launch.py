"""Write the job of a run for a cluster: ``python -m neobert.tools.launch --to slurm experiment=…``.

Takes the settings of ``python -m neobert.train``, checks them, and prints a job that trains with
them and continues by itself: an sbatch script, a Kubernetes JobSet or a SkyPilot task. How many
machines and devices it requests follows from ``trainer.num_nodes`` and ``trainer.devices``. Nothing
is submitted. ``trainer.output_dir`` and ``dataset.cache_dir`` should lie where every machine of the
job, and the one that takes over, finds them; what is not shared is prepared on each machine.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import indent

from neobert.config.compose import compose_config
from neobert.config.ready import start_problems
from neobert.config.root import Config
from neobert.console import get_logger, show_messages
from neobert.errors import ConfigError, ExitCode
from neobert.failures import run_program
from neobert.files import LATEST, user_path, write_atomically

log = get_logger("neobert.tools.launch")

PORT = 29500
GRACE = 120
"""Seconds between the warning and the end of a job: time to save a checkpoint."""

LONGEST_NAME = 40
"""Kubernetes allows 63 characters for a pod's name, and adds some of its own."""


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """What is the same on every cluster."""

    name: str
    settings: str
    """The run's, as words for a shell."""

    nodes: int
    devices: int
    """Processes on each node."""

    on_gpu: bool
    cpus: int
    """Cores for each process: its own, and those of its loader processes."""

    options: argparse.Namespace

    def torchrun(self, nodes: str, rank: str, first: str) -> str:
        """The command of a node; the arguments are pieces of shell."""
        return (
            f"torchrun --nnodes {nodes} --nproc-per-node {self.devices} --node-rank {rank} "
            f"--master-addr {first} --master-port {PORT} -m neobert.train {self.settings}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the job; raises ``ConfigError`` with all that keeps the run from being one."""
    show_messages()
    options, words = parser().parse_known_args(arguments)
    if {"-m", "--multirun"} & set(words):
        raise ConfigError(
            "--multirun: a job is one run; hydra/launcher=submitit_slurm submits sweeps"
        )
    text = CLUSTERS[options.to](job_of(compose_config(words), words, options))
    if options.output is None:
        sys.stdout.write(text)
    elif options.output.exists():
        raise ConfigError(f"--output {options.output}: exists; name another file, or move it away")
    else:
        write_atomically(options.output, text)
        log.info("written to %s", options.output)
    return 0


def parser() -> argparse.ArgumentParser:
    """The options; all other words are settings of the run."""
    arguments = argparse.ArgumentParser(
        prog="python -m neobert.tools.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    arguments.add_argument("--to", required=True, choices=list(CLUSTERS))
    arguments.add_argument(
        "--output", type=user_path, metavar="FILE", help="instead of the terminal"
    )
    arguments.add_argument("--name", help="of the job (default: the last folder of output_dir)")
    arguments.add_argument(
        "--restarts", type=int, default=20, help="at most (default: %(default)s)"
    )
    arguments.add_argument("--cpus", type=int, help="per process (default: 1 + loader processes)")
    arguments.add_argument("--python", default="python", help="slurm: the interpreter to run")
    arguments.add_argument(
        "--time", default="24:00:00", help="slurm: limit of one start (24:00:00)"
    )
    arguments.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="slurm: a further option of sbatch, such as partition=gpu",
    )
    arguments.add_argument("--image", help="k8s: the container image, with neobert installed")
    arguments.add_argument(
        "--volume",
        metavar="NAME:/PATH",
        help="k8s: a persistent volume claim; skypilot: a volume; relative paths start there",
    )
    arguments.add_argument("--gpu", default="H100", help="skypilot: the kind of GPU (H100)")
    arguments.add_argument("--setup", default="pip install .", help="skypilot: installs neobert")
    return arguments


def job_of(config: Config, words: Sequence[str], options: argparse.Namespace) -> ClusterJob:
    """The job of a run; raises ``ConfigError`` with all that keeps it from being one."""
    settings, name = config.trainer, options.name or _name(config.trainer.output_dir)
    if problems := _problems(config, words, options, name):
        raise ConfigError(*problems)
    if settings.resume_from_checkpoint is None:
        words = [*words, "trainer.resume_from_checkpoint=latest"]
    return ClusterJob(
        name=name,
        settings=shlex.join(words),
        nodes=settings.num_nodes,
        devices=int(settings.devices),
        on_gpu=not settings.use_cpu,
        cpus=options.cpus or 1 + _loader_processes(config),
        options=options,
    )


def _problems(
    config: Config, words: Sequence[str], options: argparse.Namespace, name: str
) -> list[str]:
    settings = config.trainer
    # The first start finds no checkpoint to resume from.
    first = replace(config, trainer=replace(settings, resume_from_checkpoint=None))
    problems = start_problems(first)
    if settings.devices == "auto":
        problems.append(
            "trainer.devices=auto: a job needs the number of devices of each machine; set "
            "trainer.devices=8"
        )
    if any("${now" in word for word in words):
        problems.append(
            "${now:…}: a job that is started again would not find its checkpoints; name a folder"
        )
    resume = settings.resume_from_checkpoint
    if resume is not None and str(resume).lower() not in LATEST:
        problems.append(
            f"trainer.resume_from_checkpoint={resume}: a job that is started again would go back "
            "there; set latest"
        )
    if not re.fullmatch(rf"[a-z]([a-z0-9-]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", name):
        problems.append(
            f"--name {name}: must be lower-case letters, digits and hyphens, start with a letter, "
            f"end with a letter or digit, and have at most {LONGEST_NAME} characters"
        )
    return problems + _option_problems(options, name)


def _option_problems(options: argparse.Namespace, name: str) -> list[str]:
    problems = []
    if options.restarts < 0:
        problems.append(f"--restarts {options.restarts}: must be at least 0")
    if options.cpus is not None and options.cpus < 1:
        problems.append(f"--cpus {options.cpus}: must be at least 1")
    if options.to == "k8s" and not options.image:
        problems.append("--image: Kubernetes needs a container image with neobert installed")
    if options.volume and not re.fullmatch(r"[^:\s]+:/[^:\s]*", options.volume):
        problems.append(f"--volume {options.volume}: must be NAME:/PATH")
    for option in options.sbatch:
        if not re.fullmatch(r"[a-z][a-z-]*(=\S+)?", option):
            problems.append(f"--sbatch {option}: must be KEY=VALUE without spaces")
    if options.to == "slurm" and not re.fullmatch(r"[\d:-]+", options.time):
        problems.append(f"--time {options.time}: must be [days-]hours:minutes:seconds")
    if options.to == "slurm" and name in ("bash", "interactive"):
        problems.append(f"--name {name}: Lightning takes a SLURM job of this name for a terminal")
    return problems


def slurm(job: ClusterJob) -> str:
    """A script for ``sbatch``: one task per device; submits itself again when interrupted.

    SLURM warns the tasks by SIGTERM, not the script. They save and end with 75, which srun passes
    on; torchrun would turn it into 1, so it is not used here.
    """
    options = [
        f"job-name={job.name}",
        f"nodes={job.nodes}",
        f"ntasks-per-node={job.devices}",
        *([f"gpus-per-node={job.devices}"] if job.on_gpu else []),
        f"cpus-per-task={job.cpus}",
        f"time={job.options.time}",
        f"signal=SIGTERM@{GRACE}",
        "requeue",
        "open-mode=append",
        "output=%x-%j.log",
        *job.options.sbatch,
    ]
    directives = "\n".join(f"#SBATCH --{option}" for option in options)
    return f"""\
#!/bin/bash
{directives}

# A task that has saved waits for the others, which may still be writing.
srun --kill-on-bad-exit=0 {shlex.quote(job.options.python)} -m neobert.train {job.settings}
code=$?
if [ $code -eq {int(ExitCode.INTERRUPTED)} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {
        job.options.restarts
    } ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""


def kubernetes(job: ClusterJob) -> str:
    """A JobSet (jobset.x-k8s.io): one pod with torchrun per node, all started again together."""
    first = f"{job.name}-node-0-0.{job.name}"
    # exec: the shell would not pass SIGTERM on
    command = "exec " + job.torchrun(str(job.nodes), '"$JOB_COMPLETION_INDEX"', first)
    limits = {"cpu": job.cpus * job.devices}
    if job.on_gpu:
        limits["nvidia.com/gpu"] = job.devices
    # Loader processes hand batches over in shared memory; a pod has 64 MB of it.
    volumes: list[object] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    working_dir = ""
    if job.options.volume:
        claim, _, path = job.options.volume.partition(":")
        working_dir = f"\n              workingDir: {_flow(path)}"
        mounts.append({"name": "data", "mountPath": path})
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": claim}})
    return f"""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {_flow(job.name)}
spec:
  failurePolicy:
    maxRestarts: {job.options.restarts}
  network:
    enableDNSHostnames: true
  replicatedJobs:
  - name: node
    replicas: 1
    template:
      spec:
        parallelism: {job.nodes}
        completions: {job.nodes}
        completionMode: Indexed
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: {GRACE}
            containers:
            - name: train
              image: {_flow(job.options.image)}
              command: {_flow(["bash", "-c", command])}
              ports: [{{containerPort: {PORT}}}]
              resources: {{limits: {_flow(limits)}}}{working_dir}
              volumeMounts: {_flow(mounts)}
            volumes: {_flow(volumes)}
"""


def skypilot(job: ClusterJob) -> str:
    """A task for ``sky jobs launch``, which starts it again elsewhere when it is preempted."""
    first = '"$(head -n 1 <<< "$SKYPILOT_NODE_IPS")"'
    run = job.torchrun('"$SKYPILOT_NUM_NODES"', '"$SKYPILOT_NODE_RANK"', first)
    accelerators = volumes = ""
    if job.on_gpu:
        accelerators = "\n  accelerators: " + _flow(f"{job.options.gpu}:{job.devices}")
    if job.options.volume:
        volume, _, path = job.options.volume.partition(":")
        volumes = f"volumes: {_flow({path: volume})}\n"
        run = f"cd {shlex.quote(path)}\n{run}"
    return f"""\
name: {_flow(job.name)}
num_nodes: {job.nodes}
workdir: .
resources:{accelerators}
  cpus: {job.cpus * job.devices}+
  job_recovery:
    max_restarts_on_errors: {job.options.restarts}
{volumes}setup: {_flow(job.options.setup)}
run: |
{indent(run, "  ")}
"""


def _flow(value: object) -> str:
    """A value on one line of YAML, which JSON is."""
    return json.dumps(value, ensure_ascii=False)


CLUSTERS: dict[str, Callable[[ClusterJob], str]] = {
    "slurm": slurm,
    "k8s": kubernetes,
    "skypilot": skypilot,
}


def _name(output_dir: str) -> str:
    """A name for the job of a folder that every cluster takes."""
    name = re.sub(r"[^a-z0-9]+", "-", Path(output_dir).name.lower()).strip("-")
    return name[:LONGEST_NAME].rstrip("-") if name[:1].isalpha() else f"run-{name}".rstrip("-")


def _loader_processes(config: Config) -> int:
    contrastive = config.task == "contrastive"
    return config.trainer.dataloader_num_workers if contrastive else config.dataset.num_workers


if __name__ == "__main__":
    run_program(main)
