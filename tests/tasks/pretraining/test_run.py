"""The ``trainer`` section, key by key: tiny runs from settings to run folder."""

import csv
import json
import logging
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neobert.config.compose import compose_config
from neobert.config.store import load_config_file
from neobert.errors import ConfigError, RunError
from neobert.training.callbacks.checkpointer import Checkpointer
from neobert.training.manifest import write_manifest

from .conftest import TinyRun


def column(run: Path, name: str) -> dict[int, float]:
    """A metric of ``metrics.csv`` by its step."""
    with (run / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


def steps_saved(run: Path) -> list[int]:
    return sorted(int(folder.name) for folder in run.glob("checkpoints/*"))


def weights(run: Path, step: int = 4) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / str(step) / "model.safetensors")


def moved(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """How far two sets of weights are apart, as an L2 norm."""
    return float(torch.stack([(one[name] - two[name]).norm() for name in one]).norm())


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


@pytest.mark.proves("trainer.output_dir", "trainer.logging_steps", "trainer.eval_steps")
def test_a_run_folder_holds_settings_metrics_summary_plot_and_checkpoints(
    tiny_run: TinyRun,
) -> None:
    run = tiny_run()
    assert load_config_file(run / "config.yaml").trainer.output_dir == str(run)
    assert list(column(run, "train/loss")) == [2, 4]
    assert list(column(run, "eval/loss")) == [2, 4]
    assert steps_saved(run) == [2, 4]
    assert {path.name for path in (run / "checkpoints" / "4").iterdir()} >= {
        "model.safetensors",
        "config.yaml",
        "tokenizer",
        "tokenizer_info.json",
        "trainer_state.pt",
        "manifest.json",
    }
    found = summary(run)
    assert found["after"]["eval/loss"] == column(run, "eval/loss")[4] == found["objective"]
    assert found["steps"] == 4
    assert found["tokens"] == column(run, "train/tokens")[4]
    assert found["packages"]["torch"]
    chosen = {key: found["derived"][key] for key in ("strategy", "attention", "kernels")}
    assert chosen == {"strategy": "single", "attention": "documents", "kernels": "torch"}
    assert found["derived"]["compiled"] is False
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("lost", ["moved away", "a folder"])
def test_a_lost_metrics_file_costs_neither_summary_nor_objective(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    undisturbed = tiny_run(folder="undisturbed")
    start = Checkpointer.on_train_start

    def lose(self: Checkpointer, *args: object) -> None:
        start(self, *args)
        file = tmp_path / "run" / "metrics.csv"
        file.rename(tmp_path / "elsewhere.csv")
        if lost == "a folder":
            file.mkdir()

    monkeypatch.setattr(Checkpointer, "on_train_start", lose)
    run = tiny_run()
    assert steps_saved(run) == steps_saved(undisturbed)
    expected = summary(undisturbed)
    assert summary(run)["after"] == pytest.approx(expected["after"], rel=1e-6)  # it was float32
    assert summary(run)["objective"] == pytest.approx(expected["objective"], rel=1e-6)


@pytest.mark.proves("seed")
def test_a_run_is_a_function_of_its_seed(tiny_run: TinyRun) -> None:
    one, same, other = (
        weights(tiny_run(f"seed={seed}", folder=folder))
        for folder, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert moved(one, same) == 0
    assert moved(one, other) > 0


@pytest.mark.proves("trainer.per_device_train_batch_size")
def test_the_batch_size_is_the_rows_of_a_step(tiny_run: TinyRun) -> None:
    small, large = (
        summary(tiny_run(f"trainer.per_device_train_batch_size={size}", folder=str(size)))
        for size in (2, 6)
    )
    assert 2 < large["tokens"] / small["tokens"] < 4


@pytest.mark.proves("trainer.per_device_eval_batch_size", "trainer.eval_max_batches")
def test_evaluation_takes_batches_of_its_size_up_to_its_budget(tiny_run: TinyRun) -> None:
    whole = tiny_run("trainer.per_device_eval_batch_size=5", folder="whole")
    capped = tiny_run(
        "trainer.per_device_eval_batch_size=5", "trainer.eval_max_batches=1", folder="capped"
    )
    assert column(whole, "eval/batches")[4] == 3  # a fifth of 60 documents
    assert column(capped, "eval/batches")[4] == 1


@pytest.mark.proves("trainer.eval_strategy", "trainer.num_train_epochs")
def test_epochs_set_the_length_and_the_evaluations(tiny_run: TinyRun) -> None:
    run = tiny_run(
        "trainer.max_steps=-1", "trainer.num_train_epochs=2", "trainer.eval_strategy=epoch"
    )
    assert summary(run)["steps"] == 24  # 48 documents in rows of 4, twice
    assert list(column(run, "eval/loss")) == [12, 24]
    none = tiny_run("trainer.eval_strategy=no", folder="none")
    assert column(none, "eval/loss") == {}


@pytest.mark.proves("trainer.save_strategy", "trainer.save_model", "trainer.save_steps")
@pytest.mark.parametrize(
    ("words", "saved"),
    [
        (("trainer.save_steps=3",), [3, 4]),
        (("trainer.save_strategy=no",), []),
        (("trainer.save_model=false",), []),
        (("trainer.save_strategy=epoch", "trainer.max_steps=13"), [12, 13]),
        (("trainer.save_strategy=best", "trainer.eval_steps=100"), [4]),  # no evaluation in time
    ],
)
def test_saving_follows_its_strategy(
    words: tuple[str, ...], saved: list[int], tiny_run: TinyRun
) -> None:
    assert steps_saved(tiny_run(*words)) == saved


@pytest.mark.proves(
    "trainer.log_train_accuracy", "trainer.log_grad_norm", "trainer.log_weight_norms"
)
def test_what_costs_time_is_logged_when_asked_for(tiny_run: TinyRun) -> None:
    names = {
        "log_train_accuracy": "train/accuracy",
        "log_grad_norm": "train/grad_norm",
        "log_weight_norms": "train/weight_norm",
    }
    asked = tiny_run(*(f"trainer.{key}=true" for key in names), folder="asked")
    plain = tiny_run(folder="plain")
    for name in names.values():
        assert list(column(asked, name)) == [2, 4]
        assert column(plain, name) == {}


@pytest.mark.proves("trainer.gradient_clipping")
def test_clipping_bounds_the_gradient_that_the_optimizer_gets(tiny_run: TinyRun) -> None:
    # Adam whose epsilon is large moves in proportion to the gradient, so half of it moves half.
    words = ("optimizer=adam", "optimizer.eps=1e4", "optimizer.lr=1e3", "optimizer.weight_decay=0")
    words = (*words, "trainer.max_steps=1", "trainer.save_steps=1", "trainer.log_grad_norm=true")
    words = (*words, "trainer.logging_steps=1", "scheduler.warmup_steps=0")
    free = tiny_run(*words, folder="free")
    norm = column(free, "train/grad_norm")[1]
    start = weights(tiny_run(*words, "optimizer.lr=1e-30", folder="start"), 1)
    clipped = tiny_run(*words, f"trainer.gradient_clipping={norm / 2}", folder="clipped")
    assert column(clipped, "train/grad_norm")[1] == pytest.approx(norm)  # that before clipping
    ratio = moved(weights(clipped, 1), start) / moved(weights(free, 1), start)
    assert ratio == pytest.approx(0.5, rel=1e-2)


@pytest.mark.proves("trainer.overwrite_output_dir")
def test_an_earlier_run_is_moved_aside_or_refused_and_never_lost(tiny_run: TinyRun) -> None:
    run = tiny_run()
    before = (run / "metrics.csv").read_text()
    tiny_run("seed=1")
    assert (run.with_name("run.old-1") / "metrics.csv").read_text() == before
    with pytest.raises(ConfigError, match="overwrite_output_dir is false"):
        tiny_run("trainer.overwrite_output_dir=false")
    assert not run.with_name("run.old-2").exists()


@pytest.mark.proves("trainer.load_best_model_at_end", "trainer.metric_for_best_model")
def test_the_best_model_is_that_of_the_best_evaluation(tiny_run: TinyRun) -> None:
    # The rate ruins the model at the second step, that of the first being almost 0 (warm-up): so
    # the first evaluation is the best, whichever documents a batch has.
    run = tiny_run(
        "optimizer.lr=5",
        "trainer.max_steps=8",
        "trainer.eval_steps=1",
        "trainer.save_steps=1",
        "trainer.load_best_model_at_end=true",
        "trainer.metric_for_best_model=loss",
        "trainer.greater_is_better=false",
        "trainer.save_total_limit=1",
    )
    losses = column(run, "eval/loss")
    assert list(losses) == list(range(1, 9))
    assert min(losses, key=lambda step: losses[step]) == 1
    assert summary(run)["best"]["step"] == 1
    assert summary(run)["objective"] == losses[1]
    assert steps_saved(run) == [1, 8]  # the best is kept beside the newest


def test_the_evaluation_after_the_last_step_counts_too(tiny_run: TinyRun) -> None:
    run = tiny_run(
        "trainer.max_steps=6", "trainer.eval_steps=4", "trainer.load_best_model_at_end=true"
    )
    losses = column(run, "eval/loss")
    assert list(losses) == [4, 6]
    assert losses[6] < losses[4]
    assert summary(run)["best"]["step"] == 6
    assert summary(run)["objective"] == losses[6]


def test_a_run_that_goes_on_from_an_earlier_step_or_elsewhere_knows_its_own_checkpoints(
    tiny_run: TinyRun,
) -> None:
    # The rate ruins the model at the second step, so the best checkpoint is the first.
    words = ("optimizer.lr=5", "trainer.load_best_model_at_end=true", "trainer.save_total_limit=1")
    words = (*words, "trainer.eval_steps=1", "trainer.save_steps=1")
    run = tiny_run(*words, "trainer.max_steps=8")
    best = summary(run)["best"]["step"]
    assert best == 1
    tiny_run(*words, "trainer.max_steps=8", f"trainer.resume_from_checkpoint={best}")
    assert {path.name for path in (run / "checkpoints").iterdir()} == {str(best), "8", "8.old-1"}
    elsewhere = tiny_run(  # where that best checkpoint is not
        *(*words, "trainer.max_steps=9", "trainer.eval_steps=100", "trainer.accept_changes=[all]"),
        f"trainer.resume_from_checkpoint={run}",
        folder="elsewhere",
    )
    assert steps_saved(elsewhere) == [9]
    assert summary(elsewhere)["best"]["step"] == 9


@pytest.mark.parametrize("optimizer", ["adamw", "muonclip"])
def test_a_changed_optimizer_or_model_is_refused_on_resume_and_counts_where_it_is_accepted(
    tiny_run: TinyRun, optimizer: str
) -> None:
    words = ("trainer.logging_steps=1", f"optimizer={optimizer}", "optimizer.lr=1e-2")
    run = tiny_run(*words)
    before = column(run, "train/learning_rate")
    others = (*words, "trainer.resume_from_checkpoint=2", "optimizer.lr=1e-3")
    with pytest.raises(ConfigError) as error:
        tiny_run(
            *others,
            "optimizer.weight_decay=0.5",
            "model.hidden_size=32",
            "trainer.gradient_clipping=3",
        )
    for key in (
        "optimizer.lr",
        "optimizer.weight_decay",
        "model.hidden_size",
        "trainer.gradient_clipping",
    ):
        assert f"{key} differs" in str(error.value)
    tiny_run(*others, "trainer.accept_changes=[optimizer.lr]")
    after = column(run, "train/learning_rate")
    assert after == pytest.approx(
        {1: before[1], 2: before[2], 3: before[3] / 10, 4: before[4] / 10}
    )


@pytest.mark.parametrize(("before", "after"), [("adamw", "muonclip"), ("muonclip", "adamw")])
def test_the_state_of_another_optimizer_is_one_clear_error_even_if_accepted(
    tiny_run: TinyRun, before: str, after: str
) -> None:
    tiny_run(f"optimizer={before}", "trainer.max_steps=2")
    with pytest.raises(ConfigError, match=f"optimizer.name={after}: cannot go on"):
        tiny_run(
            f"optimizer={after}",
            "trainer.max_steps=2",
            "trainer.resume_from_checkpoint=2",
            "trainer.accept_changes=[all]",
        )


@pytest.mark.proves("trainer.early_stopping", "trainer.greater_is_better")
@pytest.mark.parametrize("greater", [False, True])
def test_early_stopping_counts_evaluations_without_a_better_one(
    greater: bool, tiny_run: TinyRun
) -> None:
    # At this rate the model gets worse at first: "larger is better" stops at the second one.
    run = tiny_run(
        "optimizer.lr=5",
        "trainer.eval_steps=1",
        "trainer.max_steps=6",
        "trainer.early_stopping=1",
        "trainer.metric_for_best_model=eval/accuracy",
        f"trainer.greater_is_better={greater}",
        "trainer.logging_steps=100",
    )
    right = list(column(run, "eval/accuracy").values())
    assert right[1] < right[0]
    better = [(new > old) == greater for old, new in pairwise(right)]
    assert all(better[:-1])
    assert summary(run)["steps"] == len(right)
    assert len(right) == 2 or not greater
    # The log line of the last window comes early too.
    assert list(column(run, "train/tokens")) == [len(right)]
    assert summary(run)["tokens"] == column(run, "train/tokens")[len(right)] > 0
    assert summary(run)["tokens_per_sec"] > 0
    assert summary(run)["throughput"]["flops_per_token"] > 0


def test_a_run_that_early_stopping_ended_stays_ended_until_it_may_be_more_patient(
    tiny_run: TinyRun, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("optimizer.lr=5", "trainer.eval_steps=1", "trainer.max_steps=6")
    words = (
        *words,
        "trainer.metric_for_best_model=eval/accuracy",
        "trainer.greater_is_better=true",
    )
    assert summary(tiny_run(*words, "trainer.early_stopping=1"))["steps"] == 2
    words = (*words, "trainer.resume_from_checkpoint=latest")
    with caplog.at_level("WARNING", logger="neobert"):
        assert summary(tiny_run(*words, "trainer.early_stopping=1"))["steps"] == 2
    assert "early stopping ended this run at step 2" in caplog.text
    assert summary(tiny_run(*words, "trainer.early_stopping=6"))["steps"] == 6


@pytest.mark.proves("trainer.report_to")
def test_tensorboard_is_written_beside_the_metrics_file(tiny_run: TinyRun) -> None:
    run = tiny_run("trainer.report_to=[tensorboard]")
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert column(run, "train/loss")


@pytest.mark.proves("trainer.enforce_full_packed_batches")
def test_packed_batches_are_full_or_the_last_of_an_epoch_is_filled_up(tiny_run: TinyRun) -> None:
    words = ("datacollator.pack_sequences=true", "trainer.max_steps=-1")
    words = (*words, "trainer.num_train_epochs=1", "trainer.per_device_train_batch_size=5")
    full, rest = (
        summary(tiny_run(*words, f"trainer.enforce_full_packed_batches={whole}", folder=whole))
        for whole in ("true", "false")
    )
    assert rest["steps"] == full["steps"] + 1
    assert rest["tokens"] > full["tokens"]


@pytest.mark.proves("trainer.disable_tqdm")
def test_without_a_bar_there_is_a_line_per_log_step(
    tiny_run: TinyRun, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        tiny_run()
    lines = [one.getMessage() for one in caplog.records if one.getMessage().startswith("step ")]
    assert [line.split("  ")[0] for line in lines if "tokens/s" in line] == ["step 2/4", "step 4/4"]


def test_a_terminal_gets_a_bar(tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "write", lambda text: shown.append(text) or len(text))
    tiny_run("trainer.disable_tqdm=false")
    text = "".join(shown)
    assert "training" in text
    assert "4/4" in text
    assert "tokens/s" in text


@pytest.mark.proves("trainer.use_cpu", "trainer.tf32")
@pytest.mark.parametrize(("tf32", "precision"), [(True, "high"), (False, "highest")])
def test_tf32_and_the_cpu_are_as_asked(tf32: bool, precision: str) -> None:
    from neobert.training.precision import set_tf32
    from neobert.training.strategy import runs_on_cuda

    assert not runs_on_cuda(compose_config(["trainer.use_cpu=true"]).trainer)
    before = torch.get_float32_matmul_precision()
    try:
        set_tf32(tf32)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_nan_loss_ends_the_run_with_what_to_do(tiny_run: TinyRun) -> None:
    with pytest.raises(FloatingPointError, match=r"lower optimizer\.lr"):
        tiny_run("optimizer=adam", "optimizer.lr=1e30", "trainer.max_steps=20")


@pytest.mark.parametrize("part", ["optimizer_states", "lr_schedulers", "loops"])
def test_a_state_that_cannot_be_restored_is_one_line(tiny_run: TinyRun, part: str) -> None:
    checkpoint = tiny_run("trainer.max_steps=2", "trainer.eval_strategy=no") / "checkpoints" / "2"
    state = torch.load(checkpoint / "trainer_state.pt", weights_only=True)
    torch.save({**state, part: [{"odd": 1}]}, checkpoint / "trainer_state.pt")
    write_manifest(checkpoint)
    resume = "trainer.resume_from_checkpoint=latest"
    with pytest.raises(ConfigError, match=r"2: its state cannot be restored \(\w+: "):
        tiny_run("trainer.max_steps=2", "trainer.eval_strategy=no", resume)


def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_the_next_step(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Checkpointer.on_train_start

    def without_folder(self, trainer, pl_module):
        begin(self, trainer, pl_module)
        self.checkpoints.write_text("a file where the checkpoints belong")

    monkeypatch.setattr(Checkpointer, "on_train_start", without_folder)
    steps = ("trainer.save_steps=1", "trainer.max_steps=1000000", "trainer.eval_strategy=no")
    with pytest.raises(RunError, match=r"checkpoints/1 could not be written"):
        tiny_run(*steps)
