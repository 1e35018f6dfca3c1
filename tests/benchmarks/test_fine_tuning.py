"""Both programs of the benchmark learn the same rows, and their figures are kept."""

import json
from pathlib import Path

import pytest
import transformers

from benchmarks.fine_tuning import RECIPES, main, page_of
from tests.tasks.glue.conftest import make_tokenizer, write_splits
from tests.tasks.question_answering.conftest import questions
from tests.tasks.token_classification.conftest import tagged


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers' Trainer
def test_both_programs_learn_and_finished_runs_are_kept(tmp_path: Path) -> None:
    data, model = tmp_path / "data", tmp_path / "model"
    write_splits(data / "wnut17", train=tagged(16, 0), validation=tagged(8, 1))
    write_splits(data / "xquad_en", train=questions(8, 0), validation=questions(4, 1))
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = transformers.BertConfig(vocab_size=128, intermediate_size=32, **shape)
    transformers.BertModel(settings).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    words = [f"--data={data}", "--only=wnut17,xquad_en", "--seeds=0", "--epochs=1"]
    output = tmp_path / "figures.json"
    assert main([*words, f"--model={model}", f"--output={output}"]) == 0
    figures = json.loads(output.read_text())
    assert set(figures["runs"]) == {
        f"{name} {program} 0" for name in ("wnut17", "xquad_en") for program in ("ours", "trainer")
    }
    assert set(figures["recipes"]) == {"wnut17", "xquad_en"}
    assert str(tmp_path) not in output.read_text()
    assert all(run["tokens_per_sec"] > 0 for run in figures["runs"].values())
    before = output.stat().st_mtime_ns
    assert main([*words, f"--model={model}", f"--output={output}"]) == 0
    assert output.stat().st_mtime_ns == before


def test_the_table_has_means_and_spreads() -> None:
    name = next(iter(RECIPES))
    runs = {
        f"{name} ours {seed}": {"score": 50.0 + seed, "tokens_per_sec": 1000.0} for seed in range(3)
    }
    assert f"| {name} | ours | 51.0 ± 1.0 | 1,000 | 3 |" in page_of(runs)
