"""Two processes fine-tune as one does: the same steps, and each example is evaluated once."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.glue.conftest import Settings, sentences, write_rows

WORDS = ["trainer.max_steps=6", "trainer.eval_steps=3", "trainer.eval_strategy=steps"]
WORDS += ["trainer.per_device_eval_batch_size=4", "glue.classifier_dropout=0"]


@pytest.mark.slow
@pytest.mark.proves("trainer.devices")
def test_two_ranks_find_what_one_finds(
    settings: Settings, encoder_folder: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "data/sst2/train.jsonl", sentences(41))  # no multiple of a batch
    write_rows(tmp_path / "data/sst2/validation.jsonl", sentences(37, seed=5))
    config = settings(f"glue.pretrained_model_path={encoder_folder}", *WORDS)
    found = []
    for devices, size in ((1, 16), (2, 8)):
        folder = tmp_path / f"run-{devices}"
        own = [
            f"glue.pretrained_model_path={encoder_folder}",
            f"dataset.path={config.dataset.path}",
            f"dataset.cache_dir={config.dataset.cache_dir}",
            f"trainer.output_dir={folder}",
            f"trainer.devices={devices}",
            f"trainer.per_device_train_batch_size={size}",
        ]
        common = ["task=glue", "glue.task_name=sst2", "trainer.mixed_precision=no"]
        common += ["trainer.use_cpu=true", "optimizer.lr=3e-3", "glue.max_seq_length=32"]
        command = [sys.executable, "-m", "neobert.train", *common, *WORDS, *own]
        subprocess.run(command, check=True, timeout=500)
        with (folder / "predictions_validation.tsv").open() as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert [row["index"] for row in rows] == [str(number) for number in range(37)]
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["derived"]["devices"] == devices
        assert summary["settings"]["batch_size"] == 16
        found.append([float(row["p(positive)"]) for row in rows])
        right = sum(row["label"] == row["prediction"] for row in rows) / 37
        assert summary["score"] == pytest.approx(right)
    # fp32 sums in another order, over six steps of AdamW
    assert found[1] == pytest.approx(found[0], abs=2e-3)
