"""A run through stages: what each changes, and that a stopped run ends with the same weights."""

import csv
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from neobert.config.compose import compose_config
from neobert.data.stages import resolve_stages
from neobert.errors import ConfigError
from neobert.tasks.pretraining.run import PretrainingRun
from neobert.tools.inspect_data import batches_of_step

STAGES = (
    "trainer.max_steps=12",
    "trainer.eval_steps=4",
    "trainer.save_steps=1",
    "trainer.save_total_limit=0",
    "trainer.logging_steps=1",
    "trainer.log_batch_digests=true",
    "model.max_position_embeddings=128",
    "scheduler.name=constant",
    "datacollator.pack_sequences=true",
    "datacollator.mlm_schedule={0%:0.4,100%:0.1}",
    "dataset.max_seq_length=16",
    "dataset.crop_min_length=4",
    "stages=[{name: short, until: 50%},"
    "{name: long, until: 75%, max_seq_length: 32, per_device_train_batch_size: 2,"
    " gradient_accumulation_steps: 2, rope_theta: 50000},"
    "{name: decay, max_seq_length: 32, lr: 1e-3, decay: linear, mlm_probability: 0.3}]",
)
STREAM = ("dataset.streaming=true", "dataset.eval_samples=12", "dataset.shuffle_buffer_size=20")


def metrics(run: Path) -> dict[int, dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): row for row in csv.DictReader(file)}


def resumed_from(run: Path, step: int, train, *settings: str) -> Path:
    """A copy of ``run`` that has checkpoints up to ``step``, trained to its end again."""
    copy = run.with_name(f"{run.name}-{step}")
    shutil.copytree(run, copy)
    for folder in (copy / "checkpoints").iterdir():
        if int(folder.name) > step:
            shutil.rmtree(folder)
    resume = "trainer.resume_from_checkpoint=latest"
    return train(*STAGES, *settings, resume, folder=copy.name)


@pytest.fixture(scope="module", params=[(), STREAM], ids=["indexed", "stream"])
def staged(request: pytest.FixtureRequest, tiny_run_module) -> tuple[Path, tuple[str, ...]]:
    kind = "stream" if request.param else "indexed"
    return tiny_run_module(*STAGES, *request.param, folder=kind), request.param


@pytest.mark.parametrize("step", [3, 6, 7, 9, 11])
def test_a_run_resumed_in_any_stage_ends_with_the_same_weights(
    staged: tuple[Path, tuple[str, ...]], step: int, tiny_run_module
) -> None:
    run, settings = staged
    again = resumed_from(run, step, tiny_run_module, *settings)
    assert (again / "batches-0.csv").read_text() == (run / "batches-0.csv").read_text()
    weights = [load_file(folder / "checkpoints/12/model.safetensors") for folder in (run, again)]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_evaluations_and_rates_are_at_their_steps(staged: tuple[Path, tuple[str, ...]]) -> None:
    rows = metrics(staged[0])
    assert [step for step, row in rows.items() if row["eval/loss"]] == [4, 8, 12]
    rates = {step: float(row["train/learning_rate"]) for step, row in rows.items()}
    # The logged rate is that of the next update.
    assert rates[8] == pytest.approx(1e-2)
    assert [rates[9], rates[10], rates[12]] == pytest.approx([1e-3, 1e-3 * 2 / 3, 0], abs=1e-9)


def test_checkpoints_know_their_rope(staged: tuple[Path, tuple[str, ...]]) -> None:
    found = {
        step: yaml.safe_load((staged[0] / f"checkpoints/{step}/config.yaml").read_text())
        for step in (5, 8, 12)
    }
    thetas = {step: settings["model"]["rope_theta"] for step, settings in found.items()}
    assert thetas == {5: 10000.0, 8: 50000.0, 12: 10000.0}


def test_the_batches_of_each_stage_have_its_shape_and_mask_rate(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    config = compose_config(
        [
            "dataset=local",
            f"dataset.path={tiny_corpus / 'corpus.txt'}",
            f"dataset.cache_dir={tmp_path}",
            "dataset.num_workers=0",
            "tokenizer.train_vocab_size=128",
            "trainer.per_device_train_batch_size=4",
            *STAGES,
        ]
    )
    data = PretrainingRun(config, None).data
    data.setup("fit")
    shapes, rates = {}, {}
    for step in (0, 5, 6, 8, 9, 11):
        (batches,) = batches_of_step(data, step)
        shapes[step] = [(b.inputs.row_length, len(b.inputs.input_ids)) for b in batches]
        targets = sum(batch.num_targets for batch in batches)
        rates[step] = targets / sum(batch.inputs.num_tokens for batch in batches)
    assert shapes[0] == shapes[5] == [(16, 64)]
    assert shapes[6] == shapes[8] == [(32, 64), (32, 64)]
    assert shapes[9] == shapes[11] == [(32, 128)]
    assert rates[0] > rates[5] > rates[8]
    assert rates[9] == pytest.approx(rates[11], abs=0.05)


def test_the_batch_grows_by_tokens() -> None:
    config = compose_config(
        [
            "trainer.max_steps=100",
            "trainer.per_device_train_batch_size=4",
            "trainer.gradient_accumulation_steps=4",
            "trainer.batch_warmup_tokens=7200",
            "dataset.max_seq_length=10",
            "datacollator.pack_sequences=true",
        ]
    )
    stages = resolve_stages(config, 100, ranks=2)
    # 2,400 tokens at 80, 160 and 240 a step, moved up to whole multiples.
    assert [(stage.accumulation, stage.steps) for stage in stages] == [
        (1, 30),
        (2, 15),
        (3, 12),
        (4, 43),
    ]
    done = 0
    for stage in stages:
        assert done % stage.accumulation == 0
        done += stage.micro_batches


def test_deepspeed_cannot_change_the_accumulation(
    tiny_run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot change gradient_accumulation_steps"):
        tiny_run(*STAGES, "trainer.strategy=deepspeed_zero2", "trainer.devices=1")
    assert not (tmp_path / "run").exists()


def test_a_run_resumed_with_other_stages_is_refused(
    staged: tuple[Path, tuple[str, ...]], tiny_run_module
) -> None:
    run, settings = staged
    resume = "trainer.resume_from_checkpoint=latest"
    other = "stages=[{until: 50%},{lr: 1e-4}]"
    with pytest.raises(ConfigError, match="stages differs from the checkpoint's"):
        tiny_run_module(*STAGES, *settings, other, resume, folder=run.name)
