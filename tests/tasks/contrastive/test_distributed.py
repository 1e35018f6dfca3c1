"""Two processes against one: the same step, with the negatives of both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from neobert.config.store import save_config
from neobert.tasks import run
from neobert.training.start import open_weights

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_two_ranks_of_8_pairs_train_as_one_of_16(settings, model_folder: Path, tmp_path: Path):
    words = [
        "trainer.max_steps=2",
        "trainer.save_steps=2",
        "trainer.eval_steps=2",
        "model.dropout_prob=0",
        "optimizer.lr=1e-2",
    ]
    alone, together = tmp_path / "alone", tmp_path / "together"
    run(settings(*words, "trainer.per_device_train_batch_size=16", f"trainer.output_dir={alone}"))
    file = tmp_path / "two.yaml"
    save_config(settings(*words, "trainer.devices=2", f"trainer.output_dir={together}"), file)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "neobert.train", f"config_path={file}"],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=300,
    )
    one, two = (load_file(run / "checkpoints/2/model.safetensors") for run in (alone, together))
    start = open_weights(model_folder).encoder().state_dict()
    # Adam's first steps are almost signs: gradients that differ by a rounding may differ in theirs.
    apart = sum(float((two[name] - tensor).square().sum()) for name, tensor in one.items())
    moved = sum(float((tensor - start[name]).square().sum()) for name, tensor in one.items())
    assert apart < 1e-4 * moved
    rows = [(folder / "metrics.csv").read_text().splitlines() for folder in (alone, together)]
    assert [len(one) for one in rows] == [4, 4]  # header, before, two steps
