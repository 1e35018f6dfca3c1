import logging
from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.config.legacy import IGNORED, RENAMED, translate
from neobert.config.root import Config
from neobert.config.schema import field_types
from neobert.config.store import load_config_file

VALUES = {
    "mixed_precision": ("no", "no"),
    "trainer.bf16": (False, "no"),
    "trainer.seed": (3, 3),
    "model.flash_attention": (True, "flash_attn_varlen"),
    "model.use_flash_attention": (False, "sdpa"),
    "model.xformers_attention": (False, "sdpa"),
    "optimizer.muon_config.polar_express": (False, "newton_schulz"),
    "optimizer.muon_config.algorithm": ("ns5", "newton_schulz"),
}


@pytest.mark.proves(
    "trainer.train_batch_size",
    "trainer.eval_batch_size",
    "trainer.max_ckpt",
    "optimizer.muon_config.algorithm",
    "optimizer.muon_config.polar_express",
)
@pytest.mark.parametrize("key", RENAMED)
def test_an_old_key_becomes_the_new_one_with_one_warning(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = VALUES.get(key, (7, 7))
    target = RENAMED[key]
    with caplog.at_level(logging.WARNING):
        found = translate({key: old}, "old.yaml", [])
    assert found == {target: new}
    assert len(caplog.records) == 1
    assert key in caplog.text
    assert target in field_types()


@pytest.mark.parametrize("key", IGNORED)
def test_an_old_key_without_effect_is_dropped_with_one_warning(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert translate({key: True}, "old.yaml", []) == {}
    assert [record.getMessage() for record in caplog.records] == [
        f"old.yaml: {key} has no effect and is ignored"
    ]


def test_both_spellings_with_one_value_pass_and_with_two_do_not() -> None:
    same = {"trainer.learning_rate": 1e-3, "optimizer.lr": 1e-3}
    assert translate(same, "x", []) == {"optimizer.lr": 1e-3}
    problems: list[str] = []
    translate({**same, "optimizer.lr": 2e-3}, "x", problems)
    (problem,) = problems
    assert "trainer.learning_rate and optimizer.lr are both set, to different values" in problem


def test_null_does_not_count_as_set_where_the_reference_says_so() -> None:
    values = {"trainer.train_batch_size": None, "trainer.per_device_train_batch_size": 4}
    assert translate(values, "x", []) == {"trainer.per_device_train_batch_size": 4}


def test_null_means_what_it_means_in_the_reference(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(
        "dataset: {path: null, num_proc: null, name: x}\ntrainer: {max_steps: null}\n"
    )
    config = compose_config([f"config_path={tmp_path / 'old.yaml'}"])
    assert config.dataset.path == ""
    assert config.dataset.num_proc == 0
    assert config.trainer.max_steps == -1
    assert compose_config(["dataset.path=null"]).dataset.path == ""


def test_the_interval_of_wandb_alone_is_that_of_all_logging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = compose_config(["wandb.log_interval=7"]).trainer
    assert trainer.logging_steps == 7
    assert len(caplog.records) == 1
    both = compose_config(["wandb.log_interval=7", "trainer.logging_steps=3"])
    assert (both.wandb.log_interval, both.trainer.logging_steps) == (7, 3)
    assert len(caplog.records) == 1


def test_hparams_move_up(caplog: pytest.LogCaptureFixture) -> None:
    problems: list[str] = []
    assert translate({"optimizer.hparams.lr": 0.1}, "x", problems) == {"optimizer.lr": 0.1}
    assert problems == []
    translate({"optimizer.hparams.lr": 0.1, "optimizer.lr": 0.2}, "x", problems)
    (problem,) = problems
    assert problem == (
        "x: optimizer.hparams.lr and optimizer.lr are both set, to different values (0.1 and 0.2); "
        "keep one, preferably optimizer.lr"
    )


def test_old_keys_work_on_the_command_line_and_in_files(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("trainer:\n  bf16: true\n  max_grad_norm: 2.0\n")
    config = compose_config([f"config_path={tmp_path / 'old.yaml'}", "trainer.seed=5"])
    assert config.trainer.mixed_precision == "bf16"
    assert config.trainer.gradient_clipping == 2.0
    assert config.seed == 5


def test_a_saved_config_has_no_conflict_with_the_older_names(tmp_path: Path) -> None:
    from neobert.config.store import save_config

    config = compose_config(["trainer.save_total_limit=1", "trainer.logging_steps=5"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config_file(tmp_path / "config.yaml") == config
    assert Config().trainer.max_ckpt == 3
