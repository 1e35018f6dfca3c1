"""The program as a user starts it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from neobert.config.compose import compose_config
from neobert.train import chosen

ROOT = Path(__file__).resolve().parents[1]


def neobert(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neobert.train", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_typo_is_answered_without_a_traceback_and_without_torch(tmp_path: Path) -> None:
    done = neobert("trainer.max_stepz=3", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean trainer.max_steps?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("--cfg", "job"), ("--help",), ("trainer.max_stepz=1",)])
def test_settings_are_answered_before_torch_is_imported(words: tuple[str, ...]) -> None:
    code = (
        f"import sys; sys.argv = {['train', *words]!r}\n"
        "from neobert.train import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(sorted({'torch', 'lightning', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip().endswith("[]") or "error:" in done.stderr
    assert "torch" not in done.stderr


def test_an_older_spelling_is_told_once(tmp_path: Path) -> None:
    words = ("trainer.learning_rate=1e-3", "--trainer.max_steps", "1", "dataset.path=nowhere")
    done = neobert(*words, cwd=tmp_path)
    assert done.returncode == 2
    shown = done.stdout + done.stderr
    assert shown.count("trainer.learning_rate is an older key") == 1
    assert shown.count("--trainer.max_steps is accepted") == 1


def test_the_resolved_settings_are_shown(tmp_path: Path) -> None:
    done = neobert("--cfg", "job", "optimizer=muonclip", "seed=7", cwd=tmp_path)
    shown = yaml.safe_load(done.stdout)
    assert done.returncode == 0
    assert shown["seed"] == 7
    assert shown["optimizer"]["muon_config"]["muon_beta"] == 0.95


def test_help_shows_every_key_with_its_meaning(tmp_path: Path) -> None:
    from neobert.config.help import help_sections

    text = neobert("--help", cwd=tmp_path).stdout
    for _, keys in help_sections():
        for key in keys:
            assert f"  {key.name}: " in text
            assert key.meaning, key.name


def test_a_sweep_with_a_typo_starts_no_job(tmp_path: Path) -> None:
    done = neobert("-m", "optimizer.lrr=1e-3,2e-3", cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown key optimizer.lrr; did you mean optimizer.lr?" in done.stderr


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_a_run_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "one small step for a test"}\n' * 64)
    data = ("dataset=local", "dataset.path=texts.jsonl", "tokenizer.train_vocab_size=100")
    steps = ("trainer.max_steps=20", "trainer.logging_steps=1", "trainer.eval_strategy=no")
    done = neobert(
        "model=neobert_tiny", "optimizer=adam", "optimizer.lr=1e30", *data, *steps, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "lower optimizer.lr" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_no_line_is_printed_twice(tmp_path: Path) -> None:
    """Nor where a run resumes with settings that have changed, and older spellings."""
    (tmp_path / "texts.jsonl").write_text(
        "".join(f'{{"text": "one small step, number {number}"}}\n' for number in range(64))
    )
    words = [
        "task=pretraining",
        "model=neobert_tiny",
        "dataset=local",
        "dataset.path=texts.jsonl",
        "tokenizer.train_vocab_size=100",
        "trainer.learning_rate=1e-3",
        "dataset.max_seq_length=32",
        "trainer.per_device_train_batch_size=4",
        "trainer.eval_strategy=steps",
        "trainer.eval_steps=1",
        "trainer.save_strategy=best",
        "trainer.load_best_model_at_end=true",
        "dataset.num_workers=2",
        "trainer.output_dir=run",
        "trainer.disable_tqdm=true",
    ]
    more = ["trainer.resume_from_checkpoint=latest", "trainer.accept_changes=[all]"]
    for added in (["trainer.max_steps=2"], ["trainer.max_steps=4", *more]):
        done = neobert(*words, *added, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        shown = (done.stdout + done.stderr).splitlines()
        lines = [line.strip() for line in shown if re.search(r"\w", line) and "→" not in line]
        assert len(lines) > 10
        assert [line for line in set(lines) if lines.count(line) > 1] == []


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["task=glue", "model.init_from=my/run"], "glue: sst2 from my/run,"),
        (["task=glue", "glue.pretrained_model_path=my/run"], "glue: sst2 from my/run,"),
        (["task=glue", "glue.allow_random_weights=true"], "glue: sst2 from random weights,"),
        (
            ["task=token_classification", "model.from_hub=true", "model.name=me/model"],
            "token_classification: from me/model,",
        ),
        (["task=question_answering", "model.init_from=my/run"], "question_answering: from my/run,"),
    ],
)
def test_the_first_line_says_what_a_run_starts_from(words: list[str], start: str) -> None:
    name = ["glue.task_name=sst2"] if words[0] == "task=glue" else ["dataset.path=my/rows"]
    config = compose_config([*words, *name])
    assert chosen(config, words).startswith(start)
