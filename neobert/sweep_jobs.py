"""Sweeps: each job a fresh process, whichever of Hydra's launchers starts it.

A failed job takes no other with it, and Lightning can start its own processes in a job. What became
of each job is recorded below the sweep's folder, so that a finished one is never run again and the
table of a folder holds all its jobs.
"""

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import get_type_hints

from filelock import FileLock
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

import neobert
from neobert.config.compose import hydra_config, to_config
from neobert.config.overrides import quote
from neobert.config.root import Config
from neobert.config.section import fits
from neobert.config.store import save_config
from neobert.console import get_logger
from neobert.errors import ExitCode
from neobert.files import read_json, read_summary, write_json

log = get_logger(__name__)

RECORD = ".job-"
"""Beginning of the files in a sweep's folder with the settings and the outcome of each job."""

SWEEP = "NEOBERT_SWEEP"
"""Environment variable by which the jobs of one command know each other, in any process."""

SWEEPS_OWN = re.compile(r"[+~]*hydra[./](sweep|launcher|run|mode)")
"""Hydra's overrides that are about the sweep and not handed to its jobs."""


@dataclass(slots=True)
class Job:
    """A job of a sweep and its outcome."""

    number: int
    overrides: list[str]
    folder: str
    code: int | None = None
    """Exit code; ``None``: not ended."""

    objective: float | None = None
    """Final evaluation loss of pretraining, score of GLUE, …: what a sweeper optimises."""

    sweep: str = ""
    """The command that ran it last."""

    repeats: list[int] = field(default_factory=list)
    """Numbers of other jobs of that command with the same settings, which did not run."""


@dataclass(slots=True)
class PreparedJob:
    """A job with what it takes to start it."""

    number: int
    job: Job
    """With an exit code if these settings have run: by an earlier sweep to the end, or by another
    job of this one."""

    record: Path
    config: Config
    arguments: list[str]
    environment: dict[str, str]
    devices: int
    """Devices that the job takes."""


def run_as_process(settings: DictConfig) -> float:
    """Run the job that Hydra is at as a fresh process; its objective, or the worst there is."""
    record = record_of(to_config(settings), HydraConfig.get())
    record.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(record.with_suffix(".lock")):  # a job with equal settings may run beside this one
        prepared = prepare_job(settings)
        run_job(prepared)
    if STOPPING.is_set():
        raise KeyboardInterrupt
    return objective_of(prepared.job, HydraConfig.get())


def prepare_job(settings: DictConfig) -> PreparedJob:
    """Resolve the settings of the job that Hydra is at, and choose its folder.

    The folder of these settings if they have one below the sweep's folder (under any number), else
    Hydra's if that is empty and no other job's, else ``<number>-2``, ``<number>-3``, …
    """
    hydra = HydraConfig.get()
    config = to_config(settings)
    number, sweep = hydra.job.num, os.environ.get(SWEEP, "")
    record = record_of(config, hydra)
    before = read_job(record)
    planned = Path(hydra.runtime.output_dir)
    folder = Path(before.folder) if before else _free_folder(planned, record.parent)
    config.trainer.output_dir = str(folder)
    overrides = [word for word in hydra.overrides.task if not word.startswith("trainer.output_dir")]
    is_of_this = before is not None and before.code is not None and before.sweep == sweep != ""
    if before is not None and is_of_this and before.number != number:  # else it was requeued
        job = replace(before, repeats=[*before.repeats, number])
    else:
        finished = before is not None and before.code == 0 and read_summary(folder) is not None
        code = int(ExitCode.DONE) if finished else None
        job = Job(number, overrides, str(folder), code, sweep=sweep)
    passed_on = [word for word in hydra.overrides.hydra if not SWEEPS_OWN.match(word)]
    arguments = [f"config_path={quote(str(record.with_suffix('.yaml')))}", *passed_on]
    devices = config.trainer.devices if isinstance(config.trainer.devices, int) else 1
    environment = _environment(hydra, record.parent)
    return PreparedJob(number, job, record, config, arguments, environment, devices)


def record_of(config: Config, hydra: HydraConf) -> Path:
    """The file with the outcome of the job with these settings."""
    return Path(hydra.sweep.dir).absolute() / f"{RECORD}{digest(config)}.json"


def digest(config: Config) -> str:
    """Name of these settings, whatever folder and checkpoint the job has."""
    settings = asdict(config)
    del settings["config_path"]
    del settings["trainer"]["output_dir"], settings["trainer"]["resume_from_checkpoint"]
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_job(
    prepared: PreparedJob, beside: Sequence[Sequence[str]] = (), devices: str | None = None
) -> None:
    """Run a job to its end unless it is finished; its record says what became of it.

    ``beside``: overrides of the jobs that are launched together, this one among them. ``devices``:
    the value of ``CUDA_VISIBLE_DEVICES``; ``None``: all.
    """
    job = prepared.job
    prepared.record.parent.mkdir(parents=True, exist_ok=True)
    shown = " ".join(varied_overrides(job.overrides, beside))
    if prepared.number != job.number:
        log.info("job %d: has the settings of job %d", prepared.number, job.number)
    elif job.code is not None:
        log.info("job %d: %s: finished before, in %s", job.number, shown, job.folder)
    elif not STOPPING.is_set():
        log.info("job %d: %s", job.number, shown)
        save_config(prepared.config, prepared.record.with_suffix(".yaml"))
        write_json(asdict(job), prepared.record)
        command = [sys.executable, "-m", "neobert.train", *prepared.arguments]
        chosen = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
        with forwarding_signals():
            # A group of its own: a signal to the sweep's group reaches it once, from here.
            process = subprocess.Popen(command, env=prepared.environment | chosen, process_group=0)
            CHILDREN.append(process)
            job.code = process.wait()
            CHILDREN.remove(process)
    summary = read_summary(Path(job.folder)) if job.code is not None else None
    objective = summary.get("objective") if summary else None
    job.objective = float(objective) if isinstance(objective, int | float) else None
    write_json(asdict(job), prepared.record)


def varied_overrides(overrides: Sequence[str], beside: Sequence[Sequence[str]]) -> list[str]:
    """The overrides that not all jobs ``beside`` have; all if nothing would be left."""
    return [word for word in overrides if any(word not in job for job in beside)] or list(overrides)


def objective_of(job: Job, hydra: HydraConf) -> float:
    """What a sweeper gets: a job without an objective counts as the worst there is."""
    if job.objective is not None:
        return job.objective
    direction = str(getattr(hydra.sweeper, "direction", None))
    return -math.inf if direction.lower().endswith("maximize") else math.inf


def read_job(record: Path) -> Job | None:
    """A job as it was recorded; ``None`` if it was not, or the record is damaged."""
    try:
        job = Job(**read_json(record))  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError):
        return None
    kinds = get_type_hints(Job)
    return job if all(fits(getattr(job, name), kinds[name]) for name in kinds) else None


def read_jobs(folder: Path) -> list[Job]:
    """All jobs that were recorded in a sweep's folder: those of the latest command last."""
    records = [read_job(path) for path in sorted(folder.glob(f"{RECORD}*.json"))]
    jobs = [job for job in records if job is not None]
    return sorted(jobs, key=lambda job: (job.sweep, job.number))


def _free_folder(planned: Path, sweep_folder: Path) -> Path:
    taken = {job.folder for job in read_jobs(sweep_folder)}  # empty after a job that failed early
    folder, number = planned, 2
    while str(folder) in taken or (
        folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    ):
        folder = planned.with_name(f"{planned.name}-{number}")
        number += 1
    return folder


def _environment(hydra: HydraConf, sweep_folder: Path) -> dict[str, str]:
    """The job's environment: code is imported from where this program is, not from the current
    folder (``python -m`` puts that first)."""
    ours = str(Path(neobert.__file__).resolve().parent.parent)
    paths = [path for path in (os.environ.get("PYTHONPATH"), ours) if path]
    return {
        "WANDB_RUN_GROUP": sweep_folder.name,  # W&B puts the runs of a sweep together
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        **{str(key): str(value) for key, value in hydra.job.env_set.items()},
    }


CHILDREN: list[subprocess.Popen[bytes]] = []
"""The jobs that run now, in this process."""

STOPPING = threading.Event()
"""Set by a signal: no further job starts."""


@contextmanager
def forwarding_signals() -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM end the jobs, which save, and start no others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(number: int, frame: FrameType | None) -> None:
        STOPPING.set()
        for child in CHILDREN:
            if child.poll() is None:
                child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch(
    loader: ConfigLoader,
    master: DictConfig,
    jobs: Sequence[tuple[int, Sequence[str]]],
    n_jobs: int = 1,
    devices: Sequence[str] | None = None,
) -> list[JobReturn]:
    """Run numbered jobs, given by their overrides, ``n_jobs`` at a time.

    Raises ``KeyboardInterrupt`` if a signal stopped them; the jobs have saved then.
    """
    prepared = [_prepared(loader, master, number, list(words)) for number, words in jobs]
    beside = [entry.job.overrides for entry in prepared]
    once: dict[Path, PreparedJob] = {}  # equal settings run once
    for entry in prepared:
        first = once.setdefault(entry.record, entry)
        if first is not entry:
            first.job.repeats.append(entry.number)
            log.info("job %d: has the settings of job %d", entry.number, first.job.number)
    n_jobs = max(1, n_jobs)
    slots, here = iter(range(n_jobs)), threading.local()

    def run(entry: PreparedJob) -> None:
        if n_jobs > 1:
            threads = max(1, (os.cpu_count() or 1) // n_jobs)
            entry.environment.setdefault("OMP_NUM_THREADS", str(threads))
        run_job(entry, beside, share_of_gpus(here.slot, n_jobs, devices, entry.devices))

    pool = ThreadPoolExecutor(n_jobs, initializer=lambda: setattr(here, "slot", next(slots)))
    with forwarding_signals(), pool:
        list(pool.map(run, once.values()))
    if STOPPING.is_set():
        raise KeyboardInterrupt
    return [
        JobReturn(
            overrides=list(words),
            status=JobStatus.COMPLETED,
            _return_value=objective_of(once[entry.record].job, master.hydra),
        )
        for entry, (_, words) in zip(prepared, jobs, strict=True)
    ]


def _prepared(
    loader: ConfigLoader, master: DictConfig, number: int, overrides: list[str]
) -> PreparedJob:
    settings = loader.load_sweep_config(master, overrides)
    with open_dict(settings.hydra):
        settings.hydra.job.num = number
        settings.hydra.job.id = str(number)
    with hydra_config(settings):
        folder = Path(settings.hydra.sweep.dir) / str(settings.hydra.sweep.subdir)
        settings.hydra.runtime.output_dir = str(folder.absolute())
        return prepare_job(settings)


def share_of_gpus(slot: int, n_jobs: int, devices: Sequence[str] | None, count: int) -> str | None:
    """``CUDA_VISIBLE_DEVICES`` of a job that takes ``count`` GPUs and runs in ``slot``, beside
    others; ``None``: all."""
    gpus = list(devices or visible_devices()) if n_jobs > 1 else []
    if not gpus:
        return None
    return ",".join(gpus[(slot * count + k) % len(gpus)] for k in range(count))


def visible_devices() -> list[str]:
    """The GPUs of this machine that may be used, without importing torch."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [device for device in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if device]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(k) for k, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]
