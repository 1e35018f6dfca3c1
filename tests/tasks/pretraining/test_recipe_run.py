"""A recipe from its first stage to the average of two branches, by the commands of a user."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

TINY = (
    "experiment=modernbert_base",
    "dataset=local",
    "tokenizer.train_vocab_size=256",
    "model.hidden_size=16",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "model.intermediate_size=24",
    "dataset.num_workers=0",
    "dataset.max_seq_length=32",
    "dataset.crop_min_length=8",
    "dataset.validation_split=0.2",
    "trainer.devices=1",
    "trainer.per_device_train_batch_size=4",
    "trainer.gradient_accumulation_steps=2",
    "trainer.batch_warmup_tokens=300",
    "trainer.mixed_precision=no",
    "trainer.torch_compile=false",
    "trainer.save_steps=1",
    "trainer.save_total_limit=0",
    "trainer.eval_steps=4",
    "trainer.logging_steps=1",
    "trainer.log_batch_digests=true",
    "trainer.max_steps=12",
    "scheduler.warmup_steps=2",
    "stages.0.until=5",
    "stages.1.until=9",
    *(f"stages.{number}.max_seq_length=64" for number in (1, 2)),
    *(f"stages.{number}.per_device_train_batch_size=2" for number in (1, 2)),
    "stages.2.mixture={one: 0.2, two: 0.8}",
)
RESUME = "trainer.resume_from_checkpoint=latest"
LAST = 12


def start(folder: Path, *settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "neobert.train", *settings, f"trainer.output_dir={folder}"]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, start_new_session=True, **streams)


def finish(folder: Path, *settings: str) -> str:
    """Train to the end; what the run logs."""
    process = start(folder, *settings)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


def kill_at(step: int, folder: Path, *settings: str) -> None:
    """SIGKILL once the checkpoint of ``step`` is there."""
    process, limit = start(folder, *settings), time.monotonic() + 300
    while not (folder / f"checkpoints/{step}").is_dir() and time.monotonic() < limit:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_modernbert_base_is_killed_in_each_stage_branched_and_averaged(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    corpus = tiny_corpus / "corpus.txt"
    settings = [
        *TINY,
        f"dataset.cache_dir={tmp_path / 'cache'}",
        f"dataset.mixture={{one: {{path: {corpus}, weight: 0.7}}, two: {{path: {corpus},"
        " weight: 0.3}}",
    ]
    trunk, killed = tmp_path / "trunk", tmp_path / "killed"
    log = finish(trunk, *settings)
    for name in ("pretraining", "context extension", "annealing"):
        assert f"stage {name}" in log
    for step in (2, 7, 10):  # in each stage
        kill_at(step, killed, *settings, RESUME)
    finish(killed, *settings, RESUME)
    digests = [(run / "batches-0.csv").read_text() for run in (trunk, killed)]
    assert digests[0] == digests[1]
    weights = [load_file(run / f"checkpoints/{LAST}/model.safetensors") for run in (trunk, killed)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])

    branches = [tmp_path / shape for shape in ("linear", "cosine")]
    for branch in branches:
        shape = f"stages.2.decay={branch.name}"
        finish(branch, *settings, shape, f"trainer.branch_from={trunk}/checkpoints/9")
    parts = [str(branch / f"checkpoints/{LAST}") for branch in branches]
    mean = tmp_path / "mean"
    command = [sys.executable, "-m", "neobert.tools.average", *parts, "--output", str(mean)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    tensors = [load_file(Path(part) / "model.safetensors") for part in (*parts, str(mean))]
    for name, one in tensors[0].items():
        assert tensors[2][name].allclose((one + tensors[1][name]) / 2)
    assert not all(tensors[0][name].equal(tensors[1][name]) for name in tensors[0])
    record = json.loads((mean / "average.json").read_text())
    assert len(record["evaluation_loss"]) == len(record["bits_per_byte"]) == 3
