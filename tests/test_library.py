"""The Python interface, as docs/python.md shows it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch.loggers import CSVLogger

import neobert
from neobert.config.group_files import conf_dir
from neobert.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]

SMALL = """
_compose = neobert.compose
neobert.compose = lambda overrides: _compose([
    *overrides, "model.hidden_size=32", "model.num_hidden_layers=1", "model.num_attention_heads=2",
    "model.intermediate_size=48", "tokenizer.train_vocab_size=512", "dataset.num_workers=0",
    "dataset.eval_samples=32", "trainer.max_steps=40", "trainer.per_device_train_batch_size=2",
])
"""
"""Scales a page's settings down; the rest of it runs as it is."""

TEXT = "one small text about the sea and the hills\nanother about a river in the north\n"


def small(folder: Path, *overrides: str) -> neobert.Config:
    (folder / "text.txt").write_text(TEXT * 40)
    return neobert.compose(
        [
            "dataset=local",
            f"dataset.path={folder / 'text.txt'}",
            f"dataset.cache_dir={folder / 'cache'}",
            "dataset.num_workers=0",
            "dataset.max_seq_length=32",
            "dataset.eval_samples=8",
            "tokenizer.train_vocab_size=64",
            "model=neobert_tiny",
            "model.hidden_size=32",
            "model.num_attention_heads=2",
            "model.num_hidden_layers=1",
            "trainer.per_device_train_batch_size=2",
            "trainer.max_steps=4",
            "trainer.save_steps=2",
            "trainer.eval_steps=2",
            "trainer.logging_steps=1",
            "trainer.log_train_accuracy=true",
            "trainer.tune_cpu=false",
            f"trainer.output_dir={folder / 'run'}",
            *overrides,
        ]
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> neobert.Run:
    return neobert.train(small(tmp_path_factory.mktemp("library")))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/python.md", "README.md"])
def test_the_code_of_the_page_runs(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if page == "README.md":  # what loads an export without this package is tried in tests/export
        blocks = [block for block in blocks if "import neobert" in block]
    first, *others = blocks
    head, _, tail = first.partition("import neobert\n")
    script = "\n".join([f"{head}import neobert\n{SMALL}{tail}", *others])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NEOBERT_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "step 40" in done.stderr
    lines = done.stdout.splitlines()
    if page == "README.md":
        assert re.fullmatch(r"\{'eval/loss': [1-9]\.\d+, .*\}", *lines)
        return
    assert "trainer.mixed_precision=fp8: must be one of no, bf16, fp16, bf16-true" in lines[0]
    assert len(lines) == 4  # and three candidates for the mask


def test_importing_the_package_loads_neither_torch_nor_hydra() -> None:
    code = "import sys, neobert; sys.exit(bool({'torch', 'hydra', 'lightning'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_of_the_package_exists() -> None:
    assert {name for name in neobert.__all__ if not hasattr(neobert, name)} == set()
    assert callable(neobert.train)
    assert callable(neobert.export)


def test_a_run_has_its_summary_metrics_settings_and_model(run: neobert.Run) -> None:
    assert run.summary["steps"] == 4
    assert run.config.trainer.max_steps == 4
    table = run.metrics
    assert table["step"].to_pylist() == [1, 2, 3, 4]
    losses = table["eval/loss"].to_pylist()
    assert losses[0] is None
    assert losses[3] == pytest.approx(run.summary["after"]["eval/loss"])
    assert run.load(2).config.hidden_size == 32


@pytest.mark.parametrize("step", [2, 4])
def test_an_evaluation_gives_the_numbers_of_the_run(run: neobert.Run, step: int) -> None:
    logged = run.metrics["eval/loss"].to_pylist()[step - 1]
    metrics = neobert.evaluate(run, checkpoint=step)
    assert metrics["eval/loss"] == pytest.approx(logged, rel=1e-6)
    assert (run.folder / "evaluations" / str(step) / "evaluation.json").is_file()
    assert run.summary["steps"] == 4  # the run is as it was


def test_settings_are_checked_when_they_are_assigned() -> None:
    config = neobert.Config()
    with pytest.raises(ConfigError, match=r"unknown key optimizer.learning_rate; did you mean"):
        config.optimizer.learning_rate = 1e-3
    with pytest.raises(ConfigError, match=r"optimizer.lr='fast': must be number"):
        config.optimizer.lr = "fast"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"trainer.logging_steps=0: must be at least 1"):
        config.trainer.logging_steps = 0
    with pytest.raises(ConfigError, match="trainer=3: must be section"):
        config.trainer = 3  # type: ignore[assignment]
    assert config == neobert.Config()
    config.trainer.logging_steps = 7
    assert config.trainer.logging_steps == 7


def test_settings_made_in_python_are_checked_when_they_are_used(tmp_path: Path) -> None:
    config = neobert.Config(task="glue", seed=-1)
    config.trainer.output_dir = str(tmp_path / "run")
    with pytest.raises(ConfigError) as failure:
        neobert.train(config)
    assert any("seed=-1" in line for line in failure.value.problems)
    assert any("glue starts from no weights" in line for line in failure.value.problems)
    with pytest.raises(ConfigError, match="seed='one': must be integer"):
        neobert.train(neobert.Config(seed="one"))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_composing_leaves_another_programs_hydra_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        assert neobert.compose(["model=neobert_tiny", "seed=5"]).seed == 5
        assert GlobalHydra.instance().hydra is before
        assert hydra_compose("theirs").a == 1
    assert conf_dir().is_dir()


def test_one_text_is_no_list_of_overrides() -> None:
    with pytest.raises(ConfigError, match=r"must be a list of overrides"):
        neobert.compose("seed=5")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config.yaml"):
        neobert.evaluate(tmp_path)


LOGGERS = """
from lightning.pytorch.loggers import CSVLogger


class Rows(CSVLogger):
    rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))


class NoLogger:
    pass
"""


@pytest.mark.proves("loggers", "trainer.overfit_steps", "trainer.profiler")
def test_loggers_overfitting_and_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_loggers.py").write_text(LOGGERS)  # found in the current folder
    mine = "loggers.mine={_target_: my_loggers.Rows, save_dir: '${trainer.output_dir}'}"
    run = neobert.train(
        small(
            tmp_path,
            mine,
            "trainer.overfit_steps=1",
            "trainer.gradient_accumulation_steps=2",
            "trainer.log_batch_digests=true",
            "trainer.profiler=simple",
        ),
        loggers=[CSVLogger(tmp_path, "given")],
    )
    (given,) = (tmp_path / "given").rglob("metrics.csv")
    assert "train/loss" in given.read_text()
    rows = sys.modules["my_loggers"].Rows.rows
    losses = {step: row["train/loss"] for step, row in rows if "train/loss" in row}
    assert list(losses) == run.metrics["step"].to_pylist()
    assert list(losses.values()) == pytest.approx(run.metrics["train/loss"].to_pylist())

    lines = (run.folder / "batches-0.csv").read_text().splitlines()[1:]
    digests = [line.split(",")[-1] for line in lines]
    first, second, *_ = digests
    assert first != second
    assert digests == [first, second] * 4

    assert "run_training_batch" in (run.folder / "profile/fit-profile.txt").read_text()
    assert min(run.metrics["train/data_wait"].to_pylist()) > 0  # measured beside the profiler

    for target, said in (
        ("my_loggers.NoLogger", "loggers.mine: my_loggers.NoLogger is not a Lightning Logger"),
        ("my_loggers.Nothing", "loggers.mine: Error loading"),
        ("nowhere.Rows", "loggers.mine: there is no module nowhere"),
    ):
        with pytest.raises(ConfigError, match=said):
            neobert.train(small(tmp_path, f"loggers.mine={{_target_: {target}}}"))


@pytest.mark.proves("callbacks")
def test_callbacks_are_made_from_settings(tmp_path: Path) -> None:
    timer = "callbacks.timer={_target_: lightning.pytorch.callbacks.Timer, duration: '00:00:00:00'}"
    run = neobert.train(small(tmp_path, timer))  # no time at all
    assert run.summary["steps"] < 4
    for target in ("collections.Counter", "os.path"):  # a class and no callable at all
        wrong = small(tmp_path, f"callbacks.mine={{_target_: {target}}}")
        with pytest.raises(ConfigError, match=f"callbacks.mine: {target} is not a Lightning Call"):
            neobert.train(wrong)
    with pytest.raises(ConfigError, match=r"callbacks.mine: must have a _target_"):
        small(tmp_path, "callbacks.mine={a: 1}")
    summary = small(tmp_path, "callbacks=model_summary").callbacks["model_summary"]
    assert summary["_target_"] == "lightning.pytorch.callbacks.ModelSummary"
