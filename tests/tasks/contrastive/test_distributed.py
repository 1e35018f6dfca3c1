"""Two processes against one: the same step, with the negatives of both."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from neobert.config.store import save_config
from neobert.tasks import run
from neobert.training.start import open_weights
from tests.tasks.contrastive.conftest import pairs, write_jsonl

ROOT = Path(__file__).resolve().parents[3]


MEETING = [
    "trainer.strategy=fsdp2",
    "contrastive.micro_batch_size=3",
    "trainer.per_device_eval_batch_size=72",
]
"""Ranks that meet in every pass of the encoder; they have unequal texts, and evaluation batches."""


def read_metrics(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [["trainer.strategy=ddp"], MEETING], ids=["ddp", "fsdp2"])
def test_two_ranks_of_8_pairs_train_as_one_of_16(
    settings, model_folder: Path, tmp_path: Path, strategy: list[str]
):
    rows = pairs(200)
    for row in rows[::3] + rows[1::3]:
        row["wrong"] = []
    words = [
        f"contrastive.sources.own.path={write_jsonl(tmp_path / 'rows.jsonl', rows)}",
        "trainer.max_steps=2",
        "trainer.save_steps=2",
        "trainer.eval_steps=2",
        "model.dropout_prob=0",
        "optimizer.lr=1e-2",
    ]
    alone, together = tmp_path / "alone", tmp_path / "together"
    run(settings(*words, "trainer.per_device_train_batch_size=16", f"trainer.output_dir={alone}"))
    file = tmp_path / "two.yaml"
    words += ["trainer.devices=2", f"trainer.output_dir={together}", *strategy]
    save_config(settings(*words), file)
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
    logged = [read_metrics(folder) for folder in (alone, together)]
    assert [[row["step"] for row in rows] for rows in logged] == [["0", "1", "2"]] * 2
    for one, two in zip(*logged, strict=True):
        for name in ("eval/loss", "eval/mrr_at_10", "train/loss"):
            assert float(two[name] or 0) == pytest.approx(float(one[name] or 0), rel=1e-4), name
