"""Both programs train and are evaluated on the same masked tokens."""

import json
from pathlib import Path

import pytest

from benchmarks import time_to_loss
from benchmarks.time_to_loss import PEER, main, seconds_to_loss


@pytest.mark.slow
def test_both_curves_begin_near_a_uniform_guess_and_fall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_to_loss, "VARIANTS", {"ours": ()})  # one of them is enough
    words = [
        "--shape",
        "64x2",
        "--rows",
        "8",
        "--steps",
        "8",
        "--eval-steps",
        "4",
        "--our-eval-steps",
        "5",
    ]
    words += ["--output", str(tmp_path / "curves.json"), "trainer.eval_max_batches=1"]
    words += ["trainer.max_steps=10", "trainer.per_device_train_batch_size=8"]
    words += ["model.hidden_size=64", "model.num_attention_heads=1", "model.intermediate_size=128"]
    assert main(words) == 0
    curves = json.loads((tmp_path / "curves.json").read_text())["curves"]
    assert set(curves) == {PEER, "ours"}
    for ((first, second),) in curves.values():
        assert 0 < first[0] < second[0]
        assert 9.2 > first[1] > second[1] > 5


def test_the_time_is_that_of_the_first_evaluation_below_the_peers_last() -> None:
    curves = {PEER: [[(9.0, 5.0), (20.0, 4.0)]], "ours": [[(1.0, 4.5), (2.0, 3.9), (3.0, 3.5)]]}
    assert seconds_to_loss(curves) == {PEER: [20.0], "ours": [2.0]}
    curves["ours"] = [[(1.0, 4.5)]]
    assert seconds_to_loss(curves)["ours"] == [None]
