"""The benchmark of compiled fine-tuning: its arithmetic, and that it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compiled_tasks import CompileGain, Turn, Turns, page_of
from neobert.config.compose import compose_config
from neobert.tasks import run


def test_tokens_to_break_even_pay_for_the_compiling() -> None:
    fast = [Turn(500, 24), Turn(250, 2), Turn(500, 4), Turn(125, 1)]
    slow = [Turn(500, 24), Turn(200, 2), Turn(400, 4), Turn(100, 1)]
    gain = CompileGain.of(Turns(5, compiled=fast, eager=slow))
    # 10,000 tokens take 100 s, or 20 s and then 80 s.
    assert (gain.eager, gain.compiled, gain.ratio) == (100, 125, 1.25)
    assert gain.compiling == 20
    assert gain.break_even == pytest.approx(10_000)
    never = CompileGain.of(Turns(5, compiled=slow, eager=fast))
    assert never.break_even is None
    table = page_of({"glue": gain, "contrastive": never})
    assert "| glue | 100 | 125 | 1.25 | 20 | 10,000 |" in table
    assert "| contrastive | 125 | 100 | 0.80 | 19 | never |" in table


@pytest.mark.slow
def test_both_tasks_are_measured(tmp_path: Path) -> None:
    start = tmp_path / "start"
    small = (
        "model.hidden_size=32",
        "model.num_hidden_layers=1",
        "model.num_attention_heads=2",
        "model.intermediate_size=32",
        "tokenizer.train_vocab_size=512",
        "trainer.max_steps=1",
        "trainer.eval_strategy=no",
        "trainer.eval_on_start=false",
        f"dataset.cache_dir={tmp_path / 'cache'}",
        f"trainer.output_dir={start}",
    )
    run(compose_config(["experiment=quickstart", *small]))
    size = ["--batch", "4", "--length", "16", "--steps", "2", "--rounds", "1"]
    output = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.compiled_tasks", str(start), *size]
    subprocess.run([*command, "--output", str(output)], check=True, timeout=600)
    found = json.loads(output.read_text())
    assert set(found["tasks"]) == {"glue", "contrastive"}
    for row in found["tasks"].values():
        assert row["eager"] > 0
        assert row["compiling"] > 0
