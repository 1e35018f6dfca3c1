"""Two processes tag words and answer questions as one does: every row is evaluated once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.tasks import run
from tests.tasks.question_answering.conftest import questions
from tests.tasks.token_classification.conftest import encoder_folder, tagged, write_splits

__all__ = ["encoder_folder"]

ROOT = Path(__file__).resolve().parents[2]
Rows = list[dict[str, object]]
CASES: dict[str, tuple[Callable[[int, int], Rows], list[str], str]] = {
    "token_classification": (tagged, ["tokens.dropout=0"], "predictions_validation.tsv"),
    "question_answering": (
        questions,
        ["answers.dropout=0", "answers.max_question_length=8", "answers.stride=8"],
        "predictions_validation.json",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", CASES)
def test_two_ranks_find_what_one_finds(task: str, encoder_folder: Path, tmp_path: Path) -> None:
    rows, more, file = CASES[task]
    data = write_splits(tmp_path / "data", train=rows(29, 0), validation=rows(11, 1))
    words = [
        f"task={task}",
        f"dataset.path={data}",
        f"dataset.cache_dir={tmp_path / 'cache'}",
        f"model.init_from={encoder_folder}",
        "trainer.max_steps=6",
        "trainer.use_cpu=true",
        "trainer.mixed_precision=no",
        "trainer.disable_tqdm=true",
        "trainer.per_device_eval_batch_size=2",
        "optimizer.lr=3e-3",
        *more,
    ]
    alone, together = tmp_path / "alone", tmp_path / "together"
    of_one = [f"trainer.output_dir={alone}", "trainer.per_device_train_batch_size=8"]
    run(compose_config([*words, *of_one]))
    of_two = [f"trainer.output_dir={together}", "trainer.per_device_train_batch_size=4"]
    command = [sys.executable, "-m", "neobert.train", *words, *of_two, "trainer.devices=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    one, two = (json.loads((one / "summary.json").read_text()) for one in (alone, together))
    assert two["derived"]["devices"] == 2
    assert one["settings"]["batch_size"] == two["settings"]["batch_size"] == 8
    # fp32 sums in another order, over six steps of AdamW
    assert two["after"]["eval/loss"] == pytest.approx(one["after"]["eval/loss"], rel=1e-3)
    assert (together / file).read_text() == (alone / file).read_text()
