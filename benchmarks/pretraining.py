"""The bench: our training against Hugging Face's ``Trainer``, side by side on this machine.

``make bench`` (CPU) and ``make bench-gpu``. Every row of its table is a real run in a process of
its own: ours ``python -m neobert.train`` with other settings, the peers'
:mod:`benchmarks.peers`; same documents, tokenizer, width, depth, vocabulary, share of
masked tokens and precision. Useful tokens only: padding is not counted. Writes
``<folder>/<device>.json``, ``.md`` and ``.png``; ``--only`` measures some rows again and keeps the
others that are there.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
import transformers

from benchmarks import harness
from benchmarks.peers import WARM_UP, Job, write_documents
from benchmarks.report import (
    GEMM_BF16,
    GEMM_FP32,
    OUR_RUNS,
    PEER_RUNS,
    CpuTimes,
    Machine,
    Row,
    markdown,
    read_report,
    replaced,
    with_best_rates,
    write_report,
)
from neobert.console import show_messages
from neobert.cores import available_cores
from neobert.ops.kernels import cpu_has_bf16
from neobert.training.peak import find_peak, gemm_rate

CORPUS, VOCABULARY, MASKED = "factbook", 8192, 0.2
TIMEOUT = 1800
"""Seconds after which a run is given up and its row says so."""


@dataclass(frozen=True, slots=True)
class Size:
    """A model, and what one optimizer step takes."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    row_length: int
    rows: int
    """Packed rows of a step."""

    documents: int
    """Documents of an unpacked step, about as many tokens."""

    windows: int
    """Steps that are measured, after ``WARM_UP`` others."""

    name: str

    @property
    def tokens(self) -> int:
        """Tokens of a packed step."""
        return self.rows * self.row_length


SMALL = Size(256, 6, 4, 1024, 512, 16, 140, 5, "256 × 6, 16 × 512")
BASE = Size(768, 12, 12, 3072, 512, 16, 140, 5, "768 × 12, 16 × 512")
NEOBERT = Size(768, 28, 12, 3072, 1024, 32, 560, 20, "768 × 28, 32 × 1024")
SMOKE = Size(32, 1, 2, 48, 64, 4, 8, 2, "32 × 1, 4 × 64")
"""Whether everything runs; its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how large everything is measured."""

    on_gpu: bool
    bf16: bool
    by_cpu_time: bool
    """One thread, and seconds of processor time for seconds: what other programs take is out."""

    size: Size
    base: Size | None
    """Size of the row that is measured for its MFU alone; ``None`` where ``size`` serves."""


def choose_setting(on_gpu: bool, by_cpu_time: bool = False, smoke: bool = False) -> Setting:
    """A CPU without bf16 instructions is ten times slower: its steps take fewer tokens."""
    bf16 = on_gpu or cpu_has_bf16()
    if smoke:
        return Setting(on_gpu, bf16, by_cpu_time, SMOKE, SMOKE)
    if on_gpu:
        return Setting(on_gpu, bf16, by_cpu_time, NEOBERT, None)
    if bf16:
        return Setting(on_gpu, bf16, by_cpu_time, SMALL, BASE)
    small = replace(SMALL, rows=4, documents=35, name="256 × 6, 4 × 512")
    base = replace(BASE, rows=2, name="768 × 12, 2 × 512")
    return Setting(on_gpu, bf16, by_cpu_time, small, base)


PACKED = ("datacollator.pack_sequences=true",)
COMPILED = (*PACKED, "trainer.torch_compile=true")
FULL = (*PACKED, "trainer.masked_logits_only_loss=false")
VARLEN = "model.attn_backend=flash_attn_varlen"

OURS: dict[str, tuple[str, ...]] = {
    "unpacked": ("datacollator.pack_sequences=false",),
    "packed": PACKED,
    "packed, full logits": FULL,
    "packed, compiled": COMPILED,
    "packed, compiled, MuonClip": (*COMPILED, "optimizer=muonclip"),
}
"""What is measured on every machine: name -> settings beside the common ones."""

OURS_ON_GPU: dict[str, tuple[str, ...]] = {
    "packed, varlen": (*PACKED, VARLEN),
    "packed, varlen, no Liger": (*PACKED, VARLEN, "model.kernel_backend=torch"),
    "packed, varlen, compiled": (*COMPILED, VARLEN),
}

MFU_ROW = "packed, compiled, wide"

PEERS = [
    (model, mode)
    for model in ("modernbert", "bert")
    for mode in ("chunk-128", "chunk-512", "dynamic")
]


def main() -> None:
    """Run the bench and write what it found."""
    show_messages()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretraining", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="one GPU instead of the CPU")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--only", default="", help="pattern of rows; others stay")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: does everything run?")
    parser.add_argument(
        "--by-cpu-time",
        action="store_true",
        help="for a busy CPU: one thread, and processor time instead of the clock's",
    )
    arguments = parser.parse_args()
    if arguments.by_cpu_time:
        os.environ["OMP_NUM_THREADS"] = "1"  # the runs' too
        torch.set_num_threads(1)
    if arguments.gpu:
        take_one_gpu(os.environ)
        if not torch.cuda.is_available():
            parser.error("--gpu: there is no NVIDIA GPU here")
    setting = choose_setting(arguments.gpu, arguments.by_cpu_time, arguments.smoke)
    name = "gpu" if arguments.gpu else "cpu"
    machine, rows = describe_machine(setting), list[Row]()
    if arguments.only:
        earlier, rows = read_report(arguments.output / f"{name}.json")
        machine = with_best_rates(machine, earlier)
    harness.log.info("%s", json.dumps(machine, indent=2))
    with tempfile.TemporaryDirectory(prefix="neobert-bench-") as scratch:
        for row in measure_all(Path(scratch), setting, re.compile(arguments.only)):
            rows = replaced(rows, row)
            harness.log.info("%s", row.one_line())
            write_report(arguments.output, name, machine, rows)
    harness.log.info(
        "%s\nwritten to %s/%s.{json,md,png}", markdown(machine, rows), arguments.output, name
    )


def take_one_gpu(environment: MutableMapping[str, str]) -> None:
    """Let this process and its runs see the first GPU alone: ours and the peers take all they see.

    Before anything asks for CUDA.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "0")
    environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


def describe_machine(setting: Setting) -> Machine:
    """Hardware, versions and the rate of matrix products that it reaches."""
    device = torch.device("cuda" if setting.on_gpu else "cpu")
    clock = time.process_time if setting.by_cpu_time else time.perf_counter
    fp32, bf16 = (
        round(gemm_rate(dtype, device=device, clock=clock) / 1e9, 1)
        for dtype in (torch.float32, torch.bfloat16)
    )
    found: dict[str, str | int | float | None] = {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "precision": "bf16" if setting.bf16 else "fp32",
        "seconds": "of processor time, one thread" if setting.by_cpu_time else "of the clock",
        GEMM_FP32: fp32,
        GEMM_BF16: bf16,
    }
    if setting.on_gpu:
        peak = find_peak(device, "bf16-mixed")
        found["gpu"] = torch.cuda.get_device_name()
        found["peak_tflops_bf16"] = peak.flops / 1e12 if peak else None
    elif not setting.bf16:
        found["note"] = "this CPU has no bf16 instructions: every row runs in fp32, its best"
    return found


def measure_all(scratch: Path, setting: Setting, only: re.Pattern[str]) -> Iterator[Row]:
    """Every row of the table, one run after the other."""
    size = setting.size
    ours = OURS | OURS_ON_GPU if setting.on_gpu or size is SMOKE else OURS
    for name, settings in ours.items():
        if only.search(name):
            row = Row(name, OUR_RUNS, size.name)
            yield timed(row, partial(measure_ours, scratch, row, size, settings, setting))
    jobs = [job for job in peer_jobs(size, setting) if only.search(peer_name(job))]
    place = write_documents(scratch, CORPUS, VOCABULARY) if jobs else None
    for job in jobs:
        assert place is not None
        row = Row(peer_name(job), PEER_RUNS, size.name)
        yield timed(row, partial(measure_peer, scratch, row, replace(job, **place)))
    if setting.base is not None and only.search(MFU_ROW):
        row = Row(MFU_ROW, "MFU", setting.base.name)
        yield timed(row, partial(measure_ours, scratch, row, setting.base, COMPILED, setting))


def timed(row: Row, measure: Callable[[], Row]) -> Row:
    """``row`` as ``measure`` found it, and when, and what else the processor did meanwhile."""
    before, started = CpuTimes.now(), datetime.now(UTC)
    found = measure()
    return replace(
        found,
        started=started.isoformat(timespec="seconds"),
        cpu_of_others=CpuTimes.now().share_of_others(before),
    )


def common_settings(
    size: Size, output: Path, settings: tuple[str, ...], use_cpu: bool
) -> list[str]:
    """What all runs of ours have in common, as words of the command line before ``settings``."""
    rows = size.rows if PACKED[0] in settings else size.documents
    return [
        "task=pretraining",
        "optimizer.lr=1e-4",
        f"dataset={CORPUS}",
        f"dataset.max_seq_length={size.row_length}",
        "dataset.num_workers=0",
        f"tokenizer.train_vocab_size={VOCABULARY}",
        "datacollator.mask_all=true",
        f"datacollator.mlm_probability={MASKED}",
        f"model.hidden_size={size.hidden_size}",
        f"model.num_hidden_layers={size.layers}",
        f"model.num_attention_heads={size.heads}",
        f"model.intermediate_size={size.intermediate_size}",
        f"model.max_position_embeddings={size.row_length}",
        f"trainer.per_device_train_batch_size={rows}",
        "trainer.per_device_eval_batch_size=1",
        "trainer.eval_max_batches=1",
        "trainer.eval_on_start=false",
        "trainer.eval_strategy=no",
        "trainer.save_strategy=no",
        "trainer.logging_steps=1",
        "trainer.gradient_clipping=1.0",
        "trainer.disable_tqdm=true",
        f"trainer.max_steps={WARM_UP + size.windows}",
        f"trainer.use_cpu={str(use_cpu).lower()}",
        f"trainer.output_dir={output}",
    ]


def measure_ours(
    scratch: Path, row: Row, size: Size, settings: tuple[str, ...], setting: Setting
) -> Row:
    """Run ``python -m neobert.train`` and read its ``metrics.csv``."""
    output = scratch / f"{row.group} {row.name}".replace(" ", "-").replace(",", "")
    words = [*common_settings(size, output, settings, not setting.on_gpu), *settings]
    problem = run([sys.executable, "-m", "neobert.train", *words])
    if problem is not None:
        return replace(row, failed=problem)
    return read_steps(row, harness.logged_steps(output)[WARM_UP:], setting)


def read_steps(row: Row, steps: list[dict[str, str]], setting: Setting) -> Row:
    """``row`` with what a run's ``metrics.csv`` says of its measured steps."""
    cores = [float(step["train/cores_busy"]) if setting.by_cpu_time else 1.0 for step in steps]
    rates = [
        float(step["train/tokens_per_sec"]) / busy for step, busy in zip(steps, cores, strict=True)
    ]
    flops = [
        rate * float(step["train/flops_per_token"]) for step, rate in zip(steps, rates, strict=True)
    ]
    return replace(
        row,
        tokens_per_sec=rates,
        peak_memory_mib=float(steps[-1]["train/peak_memory_mib"]),
        gflops_per_sec=statistics.median(flops) / 1e9,
    )


def measure_peer(scratch: Path, row: Row, job: Job) -> Row:
    """Run a peer and read what it measured."""
    path = scratch / f"{job.model}-{job.mode}.json"
    path.write_text(json.dumps(asdict(job)))
    problem = run([sys.executable, "-m", "benchmarks.peers", str(path)])
    if problem is not None:
        return replace(row, failed=problem)
    found = json.loads(path.with_suffix(".measured.json").read_text())
    return replace(
        row,
        tokens_per_sec=found["tokens_per_sec"],
        peak_memory_mib=found["peak_memory_mib"],
    )


def peer_name(job: Job) -> str:
    """Name of the peer's row."""
    return f"HF Trainer, {job.model}, {job.mode}"


def peer_jobs(size: Size, setting: Setting) -> list[Job]:
    """The peers' runs; a step has as many useful tokens as ours, but where rows are padded: there a
    quarter, or padding alone would fill memory and the clock.
    """
    jobs = []
    for model, mode in PEERS:
        rows = max(1, size.documents // 4)
        if mode.startswith("chunk-"):
            rows = max(1, size.tokens // int(mode.removeprefix("chunk-")))
        jobs.append(
            Job(
                model=model,
                mode=mode,
                rows=rows,
                windows=size.windows,
                bf16=setting.bf16,
                use_cpu=not setting.on_gpu,
                hidden_size=size.hidden_size,
                layers=size.layers,
                heads=size.heads,
                intermediate_size=size.intermediate_size,
                mlm_probability=MASKED,
                by_cpu_time=setting.by_cpu_time,
            )
        )
    return jobs


def run(command: list[str]) -> str | None:
    """Run a command to its end; its last words if it failed."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not finished after {TIMEOUT} s"
    if done.returncode == 0:
        return None
    words = done.stderr.strip() or done.stdout.strip() or "no message"
    return f"exit code {done.returncode}: {words.splitlines()[-1]}"


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
