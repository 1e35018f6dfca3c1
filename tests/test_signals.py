"""Signals to the whole process group, as schedulers, `timeout` and a terminal send them."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neobert.training.metrics_file import read_metrics

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "dataset=local",
    "dataset.num_workers=2",
    "dataset.max_seq_length=32",
    "tokenizer.train_vocab_size=128",
    "model.hidden_size=16",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "model.intermediate_size=24",
    "trainer.max_steps=1000000",
    "trainer.logging_steps=1",
    "trainer.eval_strategy=no",
    "trainer.save_steps=1000000",
    "trainer.mixed_precision=no",
)


@contextmanager
def training(folder: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """The command line, in a process group of its own, in the midst of its training."""
    draw = random.Random(0)
    lines = [" ".join(draw.choices(["river", "oil", "coal"], k=9)) for _ in range(60)]
    (folder / "text.txt").write_text("\n".join(lines))
    words = (
        *(*TINY, f"dataset.path={folder / 'text.txt'}"),
        *(f"dataset.cache_dir={folder / 'cache'}", f"trainer.output_dir={folder / 'run'}"),
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "neobert.train", *words, *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + 120
        while len(read_metrics(folder / "run" / "metrics.csv")) < 3 and time.monotonic() < limit:
            assert process.poll() is None
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.mark.slow
def test_sigterm_to_the_group_saves_and_ends_with_75_in_spite_of_loader_processes(
    tmp_path: Path,
) -> None:
    with training(tmp_path) as process:
        os.killpg(process.pid, signal.SIGTERM)
        _, shown = process.communicate(timeout=120)
    assert process.returncode == 75, shown
    assert "Traceback" not in shown
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert f"stopped after step {saved.name}; to resume:" in shown


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_with_130_and_a_word(tmp_path: Path) -> None:
    # A step is long enough for both.
    with training(tmp_path, "trainer.gradient_accumulation_steps=200") as process:
        os.killpg(process.pid, signal.SIGINT)
        while "finishing this step" not in read_line(process):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, shown = process.communicate(timeout=120)
    assert process.returncode == 130, shown
    assert "interrupted outside training, or twice" in shown
    assert "Traceback" not in shown
