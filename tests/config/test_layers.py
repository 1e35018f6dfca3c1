"""Strength of layers between rival keys, keys without effect, paths, files of any size."""

import fnmatch
import logging
import re
from pathlib import Path

import pytest
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode

from neobert.config.compose import SettingsLoader, compose_config
from neobert.config.effects import RULES
from neobert.config.familiar import FAMILIAR
from neobert.config.group_files import PRIMARY, conf_dir
from neobert.config.schema import default_of, field_types, is_text, nearest
from neobert.errors import ConfigError


def value_of(key: str, *words: str) -> object:
    value: object = compose_config(words)
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("task=glue scheduler.warmup_steps=50", "scheduler.warmup_percent", None),
        ("task=contrastive trainer.warmup_steps=50", "scheduler.warmup_percent", None),
        ("experiment=quickstart scheduler.warmup_steps=7", "scheduler.warmup_percent", None),
        ("experiment=quickstart", "scheduler.warmup_percent", 5.0),
        ("tokenizer.path=/x", "tokenizer.train_vocab_size", None),
        ("task=mteb tokenizer.path=/x", "tokenizer.train_vocab_size", None),
        ("dataset=local dataset.path=x tokenizer.name=y", "tokenizer.train_vocab_size", None),
        ("experiment=quickstart trainer.num_train_epochs=2", "trainer.max_steps", -1),
        ("trainer.num_train_epochs=2", "trainer.max_steps", -1),
        ("trainer.num_train_epochs=2 trainer.max_steps=9", "trainer.max_steps", 9),
        ("task=glue trainer.max_steps=9", "trainer.max_steps", 9),
        (
            "experiment=contrastive_factbook contrastive.pretrained_model_path=/m",
            "contrastive.pretrained_checkpoint_dir",
            None,
        ),
        (
            "experiment=glue_tutorial glue.pretrained_checkpoint_dir=/m",
            "glue.pretrained_model_path",
            None,
        ),
        (
            "strategy=zero3_offload deepspeed.config_file=x.json",
            "deepspeed.offload_parameters",
            False,
        ),
        ("wandb.log_interval=7 experiment=quickstart", "trainer.logging_steps", 7),
    ],
)
def test_a_key_of_a_stronger_layer_wins_over_its_rival(words: str, key: str, value: object) -> None:
    assert value_of(key, *words.split()) == value


def test_a_file_is_such_a_layer_too(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("task: glue\nscheduler: {warmup_steps: 50}\n")
    assert value_of("scheduler.warmup_percent", f"config_path={tmp_path}/c.yaml") is None
    (tmp_path / "d.yaml").write_text("dataset: {path: /a}\n")
    assert value_of("dataset.path", f"config_path={tmp_path}/d.yaml", "dataset.name=imdb") == ""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("task=glue scheduler.total_steps=9", "scheduler.total_steps has no effect"),
        ("task=glue trainer.eval_steps=9", "trainer.eval_steps has no effect"),
        ("task=glue trainer.save_steps=9", "trainer.save_steps has no effect"),
        ("dataset.min_length=9", "dataset.min_length has no effect: set dataset.filter_by_length"),
        ("dataset.pre_tokenize_output=x", "set dataset.pre_tokenize=true"),
        ("model.from_hub=true model.name=x", "model.from_hub has no effect"),
        ("task=contrastive trainer.eval_max_batches=3", "dataset.eval_samples bounds it"),
        ("dataset.text_column=y", "dataset.text_column has no effect"),
        ("glue.task_name=rte", "glue.task_name has no effect: it is for task=glue"),
        ("mteb_batch_size=3", "mteb_batch_size has no effect: it is for task=mteb"),
        ("datacollator.mlm_probability=0", "nothing is learnt"),
        ("datacollator.max_length=64", "datacollator.max_length has no effect"),
        ("trainer.torch_compile_backend=eager", "trainer.torch_compile=false"),
        ("scheduler.warmup_percent=3 scheduler.warmup_steps=4", "scheduler.warmup_steps has no"),
        ("trainer.max_steps=3 trainer.num_train_epochs=4", "trainer.num_train_epochs has no"),
        ("dataset.path=x dataset.name=imdb", "dataset.name has no effect: dataset.path is set"),
        ("tokenizer.path=x tokenizer.name=y", "tokenizer.name has no effect"),
        (
            "task=glue dataset.text_column=y",
            "dataset.text_column has no effect: it is for task=pre",
        ),
        ("task=contrastive dataset.num_workers=9", "trainer.dataloader_num_workers"),
        ("task=glue datacollator.mlm_probability=0.3", "it is for task=pretraining, contrastive"),
        ("task=mteb optimizer.lr=3", "optimizer.lr has no effect: task=mteb trains nothing"),
    ],
)
def test_a_key_without_effect_is_reported(
    words: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        compose_config(words.split())
    assert [record for record in caplog.messages if line in record], caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "words",
    [
        "dataset.min_length=9 dataset.filter_by_length=true",
        "task=glue glue.task_name=rte trainer.eval_steps=9 trainer.eval_strategy=steps",
        "trainer.num_train_epochs=2",
        "dataset=local dataset.path=x",
        "experiment=quickstart",
        "experiment=contrastive_factbook",
        "task=contrastive dataset.path=x dataset.name=ALLNLI",
    ],
)
def test_keys_with_effect_are_not_reported(words: str, caplog: pytest.LogCaptureFixture) -> None:
    compose_config(words.split())
    assert caplog.records == []


def test_a_saved_config_is_not_reported_key_by_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from neobert.config.store import save_config

    config = compose_config(["experiment=quickstart", "dataset.path=x"])
    save_config(config, tmp_path / "config.yaml")
    caplog.clear()
    compose_config([f"config_path={tmp_path / 'config.yaml'}"])
    assert caplog.records == []


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        (
            "task: glue\nglue: {allow_random_weights: true}\n"
            "trainer: {load_best_model_at_end: true, save_strategy: no}\n",
            "trainer.load_best_model_at_end",
            False,
        ),
        (
            "dataset: {name: x}\ndatacollator: {pack_sequences: true, pad_to_multiple_of: 8}\n",
            "datacollator.pad_to_multiple_of",
            None,
        ),
    ],
)
def test_configurations_of_the_reference_load_with_a_line(
    text: str, key: str, value: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert value_of(key, f"config_path={tmp_path}/c.yaml") == value
    assert f"{key}=" in caplog.text
    assert "is ignored" in caplog.text


PATHS = (
    "accelerate_config_file",
    "config_path",
    "mteb_model",
    "model.init_from",
    "model.name",
    "dataset.path",
    "dataset.cache_dir",
    "dataset.pre_tokenize_output",
    "tokenizer.name",
    "tokenizer.path",
    "trainer.output_dir",
    "trainer.resume_from_checkpoint",
    "trainer.branch_from",
    "wandb.dir",
    "glue.pretrained_model_path",
    "glue.pretrained_checkpoint_dir",
    "glue.transfer_dir",
    "contrastive.pretrained_checkpoint_dir",
    "contrastive.pretrained_model_path",
    "contrastive.pretraining_dataset",
    "contrastive.sources_dir",
    "contrastive.eval_sts",
    "deepspeed.config_file",
)
"""Keys that may name a file or a folder."""


@pytest.mark.parametrize("key", PATHS)
def test_the_home_directory_is_expanded_in_every_path(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").write_text("seed: 1\n")
    extra = ["trainer.strategy=deepspeed_zero2"] if key.startswith("deepspeed") else []
    assert value_of(key, f"{key}='~/x'", *extra) == str(tmp_path / "x")


def test_it_is_expanded_in_entries_of_mappings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = compose_config(
        ["mteb_local={A: {type: sts, path: '~/x'}}", "contrastive.sources={B: {path: '~/y'}}"]
    )
    assert config.mteb_local["A"]["path"] == str(tmp_path / "x")
    assert config.contrastive.sources["B"]["path"] == str(tmp_path / "y")


def test_a_rule_about_keys_without_effect_names_keys_that_exist() -> None:
    for conditions, patterns, *_ in RULES:
        for condition in conditions.split(" & "):
            key, _, values = re.split("(!?=|>)", condition)
            assert key in field_types()
            if isinstance(default_of(key), bool):
                assert values in ("true", "false")
        for pattern in patterns.split():
            assert fnmatch.filter(field_types(), pattern), pattern


def test_every_key_that_sounds_like_a_path_is_one() -> None:
    words = ("path", "dir", "file", "folder", "init_from", "_output")
    no_paths = {"trainer.overwrite_output_dir"}
    found = {
        key
        for key, kind in field_types().items()
        if key.rpartition(".")[2].endswith(words) and is_text(kind)
    }
    assert found - no_paths <= set(PATHS)


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("learning_rate=1", "optimizer.lr"),
        ("trainer.fp16=true", "trainer.mixed_precision=fp16"),
        ("batch_size=8", "trainer.per_device_train_batch_size"),
        ("max_grad_norm=1", "trainer.gradient_clipping"),
        ("warmup_ratio=0.1", "scheduler.warmup_percent"),
        ("trainer.epochs=3", "trainer.num_train_epochs"),
        ("resume=latest", "trainer.resume_from_checkpoint"),
    ],
)
def test_words_of_other_trainers_lead_to_the_right_key(word: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        compose_config([word])


def test_every_key_that_is_recommended_exists() -> None:
    for other, ours in FAMILIAR.items():
        for key in ours.split(" ")[0].rstrip(",").split(", "):
            assert key.partition("=")[0].removesuffix(".*") in {*field_types(), "scheduler"}, other
    assert nearest("train_batch_size") == "; did you mean trainer.per_device_train_batch_size?"
    assert nearest("num_layers") == "; did you mean model.num_hidden_layers?"
    assert nearest("optimizer.muon_config.enable_clip") == (
        "; did you mean optimizer.muon_config.enable_clipping?"
    )
    # A long section alone is no resemblance.
    assert nearest("optimizer.muon_config.estimate_lower_bound") == ""
    assert nearest("optimizer.muon_config.lr_scale") == ""
    assert nearest("trainer.max_stepz") == "; did you mean trainer.max_steps?"


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x]"]
    lines += [f"a{one}: &a{one} [{', '.join([f'*a{one - 1}'] * 6)}]" for one in range(1, 11)]
    text = "".join(f"  {line}\n" for line in lines)
    (tmp_path / "c.yaml").write_text(f"pretraining_metadata:\n{text}")
    with pytest.raises(ConfigError, match="more than 50,000 values"):
        compose_config([f"config_path={tmp_path}/c.yaml"])


def test_thousands_of_unknown_keys_are_counted(tmp_path: Path) -> None:
    text = "".join(f"  kee{one}: {one}\n" for one in range(20000))
    (tmp_path / "c.yaml").write_text(f"trainer:\n{text}")
    with pytest.raises(ConfigError) as error:
        compose_config([f"config_path={tmp_path}/c.yaml"])
    assert len(error.value.problems) == 21
    assert error.value.problems[-1] == "… and 19,980 more unknown keys"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pretraining_metadata: &t\n  x: *t\n", "deeper than 50"),
        ("a: " + "[" * 20000 + "]" * 20000, "deeper than 50 levels"),
        ("model: " + "{a: " * 900 + "1" + "}" * 900, "deeper than 50 levels"),
        ("seed: '" + "${" * 5000 + "a" + "}" * 5000 + "'", "seed: has more than 50 interpolations"),
        ("seed: ${seed}\n", r"c.yaml: seed=\${seed}: Recursive"),
        ("model: nope\n", r"c.yaml: model=nope: must be one of"),
        ("seed: " + "9" * 10000, "cannot be read"),
        ("seed: " + "9" * 30, "must be integer"),
        ("trainer: {max_steps: 7}\nseed: 1\ntrainer: {save_steps: 3}\n", "line 3: found duplicate"),
        ("a: [1,\n  2\n", "line 3"),
        ('trainer: {output_dir: "a\\0b"}', "must be text"),
        ("seed: .inf\n", "must be integer"),
        ("model: 3\n", "model=3: is a section"),
        ("stages: [{lrr: 1}]\n", "unknown key stages.0..lrr; did you mean"),
        ("x" * (2**20 + 1), "more than 1,048,576 bytes"),
    ],
)
def test_odd_files_are_one_clear_error(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem) as error:
        compose_config([f"config_path={tmp_path}/c.yaml"])
    assert len(error.value.problems) == 1
    assert "c.yaml" in error.value.problems[0]


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("dataset.config=1.10", "dataset.config", "1.10"),
        ("tokenizer.revision=12e4567", "tokenizer.revision", "12e4567"),
        ("wandb.tags=[1.10,yes,'b=c']", "wandb.tags", ["1.10", "yes", "b=c"]),
        ("trainer.devices='2'", "trainer.devices", 2),
        ("trainer.save_total_limit=none", "trainer.save_total_limit", None),
    ],
)
def test_text_stays_and_numbers_are_numbers(word: str, key: str, value: object) -> None:
    found = value_of(key, word)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("trainer.bf16=maybe", "trainer.mixed_precision=maybe: must be one of"),
        ("model.flash_attention=maybe", "model.attn_backend=maybe: must be one of"),
        ("optimizer.muon_config.polar_express=svd", "orthogonalization=svd: must be one of"),
        ("model.rope=2", "model.rope=2: must be boolean"),
        ("trainer.max_steps=1e30", "must be integer"),
        ("seed=" + "9" * 6000, "cannot be read"),
        ("seed=" + "x" * 6000, "seed=x{40}…: must be integer"),
        ("=3", "'=3': has no key; write key=value without spaces"),
        ("trainer..max_steps=3", "is not of the form key=value"),
        ("seed@x=3", "only a group has a package"),
        ("SEED=3", r"unknown key SEED; did you mean seed\?"),
        ("model.num_hidden_layers=1000000000", "at most 10,000 layers"),
        ("model.hidden_size=12000000000", r"1e\+12 parameters"),
    ],
)
def test_what_is_no_value_of_the_key_is_refused(word: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        compose_config([word])


def test_one_value_in_two_spellings_is_no_conflict(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        'seed: "7"\ntrainer: {seed: 7, learning_rate: 0.0001}\noptimizer: {lr: 1e-4}\n'
    )
    config = compose_config([f"config_path={tmp_path}/c.yaml"])
    assert (config.seed, config.optimizer.lr) == (7, 1e-4)


@pytest.mark.parametrize("key", ["trainer.output_dir", "hydra.run.dir", "hydra.sweep.dir"])
def test_hydra_makes_no_folder_that_is_called_like_the_home_directory(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    loader = SettingsLoader(create_config_search_path(str(conf_dir())))
    mode = RunMode.MULTIRUN if key == "hydra.sweep.dir" else RunMode.RUN
    settings = loader.load_configuration(PRIMARY, [f"{key}='~/x'"], mode)
    section = settings.hydra.sweep if mode == RunMode.MULTIRUN else settings.hydra.run
    assert section.dir == str(tmp_path / "x")
    assert loader.config.trainer.output_dir == str(tmp_path / "x")
