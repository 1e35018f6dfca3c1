import logging
from dataclasses import asdict
from itertools import product
from operator import attrgetter
from pathlib import Path

import pytest
import yaml

from neobert.config.compose import compose_config
from neobert.config.group_files import options
from neobert.config.schema import field_types
from neobert.config.store import load_config_file, save_config
from neobert.errors import ConfigError


def problems_of(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        compose_config(words)
    return error.value.problems


@pytest.mark.proves("trainer.max_steps", "optimizer.name", "task")
def test_the_user_s_command_composes() -> None:
    config = compose_config(["task=pretraining", "optimizer=muonclip", "trainer.max_steps=1000"])
    assert config.task == "pretraining"
    assert config.optimizer.name == "muonclip"
    assert config.optimizer.muon_config is not None
    assert config.trainer.max_steps == 1000
    assert config.model.hidden_size == 768
    assert config.dataset.name == "factbook"


@pytest.mark.parametrize(
    "choice",
    [
        *(
            f"{group}={one}"
            for group in ("model", "dataset", "scheduler")
            for one in options(group)
        ),
        *(
            f"task={task} optimizer={one}"
            for task, one in product(options("task"), options("optimizer"))
        ),
        *(f"experiment={one}" for one in options("experiment")),
    ],
)
def test_what_is_saved_composes_the_identical_config(choice: str, tmp_path: Path) -> None:
    config = compose_config(choice.split())
    save_config(config, tmp_path / "config.yaml")
    assert load_config_file(tmp_path / "config.yaml") == config
    again = asdict(compose_config([f"config_path={tmp_path / 'config.yaml'}"]))
    again["config_path"] = None
    assert again == asdict(config)


def test_every_problem_is_reported_at_once_with_its_origin_and_the_nearest_key() -> None:
    problems = problems_of(
        "trainer.max_stepz=3", "+foo.bar=1", "model.hidden_size=77", "trainer.logging_steps=abc"
    )
    text = "\n".join(problems)
    assert "command line: unknown key trainer.max_stepz; did you mean trainer.max_steps?" in text
    assert "command line: unknown key foo.bar" in text
    assert "model.hidden_size=77: must be a multiple of model.num_attention_heads=12" in text
    assert "command line: trainer.logging_steps=abc: must be integer" in text
    assert len(problems) == 4


def test_problems_of_words_file_and_values_are_reported_together(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("trainer: {learning_rate: 1.0e-3}\noptimizer: {lr: 2.0e-3, epz: 1}\n")
    found = problems_of(
        "nonsense", f"config_path={file}", "wandb.name='${sed}'", "trainer.max_steps=x"
    )
    assert [problem.partition(": ")[0] for problem in found] == [
        f"{file}",  # unknown keys come first
        "command line",
        f"{file}",
        "command line",
        "command line",
    ]
    assert "wandb.name=${sed}" in found[-1]


def test_every_option_that_is_not_there_is_reported_at_once() -> None:
    found = problems_of("nonsense", "optimizer=sgd", "model=huge")
    assert [problem.partition(": must")[0] for problem in found[1:]] == [
        "command line: optimizer=sgd",
        "command line: model=huge",
    ]


@pytest.mark.parametrize("word", ["optimizer=muonclp", "task=foo", "experiment=nope"])
def test_an_unknown_option_lists_those_that_are_there(word: str) -> None:
    group = word.partition("=")[0]
    (problem,) = problems_of(word)
    assert f"{word}: must be one of {', '.join(options(group))}" in problem


@pytest.mark.parametrize(
    "word", ["nonsense", "~trainer.max_stepz", "optimizer.lr=1,2", "hydra.x=1"]
)
def test_words_that_are_no_settings_are_refused(word: str) -> None:
    assert word.split("=", maxsplit=1)[0] in problems_of(word)[0]


@pytest.mark.proves("config_path")
def test_a_file_is_stronger_than_groups_and_weaker_than_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optimizer:\n  lr: 1e-3\n  weight_decay: 0.5\nmodel:\n")
    config = compose_config(
        [f"config_path={file}", "experiment=quickstart", "optimizer.weight_decay=0.25"]
    )
    assert config.optimizer.lr == 1e-3
    assert config.optimizer.weight_decay == 0.25
    assert config.model.hidden_size == 160


def test_a_file_with_its_own_corpus_gets_the_reference_s_defaults(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("dataset:\n  name: some/corpus\n")
    config = compose_config([f"config_path={file}"])
    assert config.dataset.name == "some/corpus"
    assert config.dataset.streaming is True
    assert config.tokenizer.train_vocab_size is None


@pytest.mark.proves("wandb.enabled")
@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        ("wandb:\n  project: mine\n", True),
        ("wandb:\n  project: mine\n  enabled: false\n", False),
        ("seed: 3\n", False),
    ],
)
def test_a_wandb_section_turns_logging_on(text: str, enabled: bool, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert compose_config([f"config_path={tmp_path / 'c.yaml'}"]).wandb.enabled is enabled


def test_one_entry_of_a_file_s_own_mapping_can_be_changed(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    task = {"type": "retrieval", "path": "faq.jsonl", "columns": {"query": "q", "document": "d"}}
    file.write_text(yaml.safe_dump({"task": "mteb", "mteb_local": {"One": task, "Two": task}}))
    words = [f"config_path={file}", "mteb_local.One.path=x.jsonl", "mteb_local.Two.columns.query=a"]
    assert compose_config(words).mteb_local == {
        "One": {**task, "path": "x.jsonl"},
        "Two": {**task, "columns": {"query": "a", "document": "d"}},
    }
    changed = compose_config([f"config_path={file}", "mteb_local.Two={path: y.jsonl}"]).mteb_local
    assert changed == {"One": task, "Two": {**task, "path": "y.jsonl"}}
    assert compose_config([f"config_path={file}", "mteb_local={}"]).mteb_local == {}
    assert compose_config([f"config_path={file}", "~mteb_local.One"]).mteb_local == {"Two": task}


def test_an_unknown_key_of_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("trainer:\n  max_stepz: 3\n")
    (problem,) = problems_of(f"config_path={tmp_path / 'c.yaml'}")
    assert problem.startswith(f"{tmp_path / 'c.yaml'}: unknown key trainer.max_stepz")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("dataset.train_split=train[:90%]", "\"dataset.train_split='train[:90%]'\""),
        ("wandb.name=a=b", "\"wandb.name='a=b'\""),
        ("wandb.name=it's", "\"wandb.name='it\\'s'\""),
        ("-trainer.max_steps=3", "is not of the form key=value"),
        ("configs/old.yaml", "config_path=configs/old.yaml"),
    ],
)
def test_a_word_that_cannot_be_read_is_shown_as_it_can_be(word: str, hint: str) -> None:
    (problem,) = problems_of(word)
    assert problem.endswith(hint)
    compose_config(["dataset.train_split='train[:90%]'", "wandb.name='a=b'"])
    assert compose_config([r"wandb.name='it\'s'"]).wandb.name == "it's"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["seed=5000000000"], "seed=5000000000"),
        (
            ["trainer.metric_for_best_model=f1"],
            "must be one of loss, perplexity, bits_per_byte, accuracy",
        ),
        (["trainer.metric_for_best_model=eval_loss"], "trainer.greater_is_better=false"),
        (["trainer.eval_strategy=no", "trainer.early_stopping=1"], "trainer.early_stopping"),
        (["trainer.eval_strategy=no", "trainer.save_strategy=best"], "trainer.save_strategy"),
        (
            ["trainer.eval_strategy=no", "trainer.load_best_model_at_end=true"],
            "trainer.load_best_model_at_end",
        ),
    ],
)
def test_what_would_fail_or_mislead_late_in_a_run_is_refused_at_once(
    words: list[str], problem: str
) -> None:
    (found,) = problems_of(*words)
    assert problem in found


def test_muon_s_settings_beside_another_optimizer_are_ignored_aloud(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert compose_config(["experiment=quickstart"]).optimizer.name == "muonclip"
    assert not caplog.records
    assert compose_config(["experiment=quickstart", "optimizer=adamw"]).optimizer.name == "adamw"
    assert "optimizer.muon_config has no effect" in caplog.text


def test_an_interpolation_is_what_it_stands_for(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("wandb: {name: 'run-${model.hidden_size}'}\n")
    words = [f"config_path={tmp_path / 'c.yaml'}", "trainer.output_dir='out/${seed}'"]
    config = compose_config([*words, "seed=3", "trainer.eval_steps=${trainer.save_steps}"])
    assert config.wandb.name == "run-768"
    assert config.trainer.output_dir == "out/3"
    assert config.trainer.eval_steps == 10000
    (problem,) = problems_of("trainer.output_dir='out/${sed}'")
    assert problem.startswith("command line: trainer.output_dir=out/${sed}: ")


def test_a_task_on_the_command_line_is_the_root_key_too(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("task: pretraining\n")
    config = compose_config([f"config_path={tmp_path / 'c.yaml'}", "task=glue"])
    assert config.task == "glue"
    assert config.trainer.eval_strategy == "epoch"


def test_a_group_that_a_file_overrules_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "c.yaml").write_text("optimizer:\n  name: adamw\n")
    file = f"config_path={tmp_path / 'c.yaml'}"
    assert compose_config([file, "optimizer=adamw", "model=neobert_tiny"]).optimizer.lr == 1e-4
    assert not caplog.records
    assert compose_config([file, "optimizer=muonclip"]).optimizer.name == "adamw"
    assert "c.yaml is stronger than optimizer=muonclip: optimizer.name=adamw" in caplog.text


def test_a_file_is_not_said_to_overrule_the_groups_that_it_chooses_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved, small = tmp_path / "config.yaml", tmp_path / "small.yaml"
    save_config(compose_config(["task=token_classification", "optimizer.lr=3e-5"]), saved)
    small.write_text("defaults: [{optimizer: muonclip}]\noptimizer: {lr: 3e-5}\n")
    for file in (saved, small):
        assert compose_config([f"config_path={file}"]).optimizer.lr == 3e-5
    assert "is stronger than" not in caplog.text


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "trainer: 3\n"])
def test_a_file_of_another_kind_is_one_clear_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert "c.yaml" in problems_of(f"config_path={tmp_path / 'c.yaml'}")[0]


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    assert "cannot be read" in problems_of(f"config_path={tmp_path / 'none.yaml'}")[0]


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["--trainer.max_steps", "1000"], 1000),
        (["--trainer.max_steps=1000"], 1000),
        (["trainer.max_steps=1e3"], 1000),
        (["+trainer.max_steps=1000"], 1000),
    ],
)
def test_the_reference_s_command_line_form_is_accepted(
    words: list[str], steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert compose_config(words).trainer.max_steps == steps
    assert ("trainer.max_steps=1000" in caplog.text) == words[0].startswith("--")


@pytest.mark.proves("debug", "trainer.mixed_precision")
@pytest.mark.parametrize(
    ("word", "section", "key", "value"),
    [
        ("trainer.mixed_precision=no", "trainer", "mixed_precision", "no"),
        ("trainer.mixed_precision=false", "trainer", "mixed_precision", "no"),
        ("trainer.mixed_precision=BF16", "trainer", "mixed_precision", "bf16"),
        ("model.rope=no", "model", "rope", False),
        ("model.hidden_act=GELU", "model", "hidden_act", "gelu"),
        ("trainer.strategy=DDP", "trainer", "strategy", "ddp"),
        ("optimizer.lr=1e-4", "optimizer", "lr", 1e-4),
        ("optimizer.lr='5e-4'", "optimizer", "lr", 5e-4),
        ("optimizer.betas=[0.9,0.98]", "optimizer", "betas", [0.9, 0.98]),
        ("dataset.prefetch_factor=null", "dataset", "prefetch_factor", None),
        ("trainer.devices=2", "trainer", "devices", 2),
        ("glue.pretrained_checkpoint=latest", "glue", "pretrained_checkpoint", "latest"),
        ("trainer.resume_from_checkpoint=6", "trainer", "resume_from_checkpoint", "6"),
        ("trainer.resume_from_checkpoint=true", "trainer", "resume_from_checkpoint", "true"),
    ],
)
def test_values_mean_what_people_mean(word: str, section: str, key: str, value: object) -> None:
    found = getattr(getattr(compose_config([word]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_overfitting_drops_nothing_out_in_any_task() -> None:
    config = compose_config(["debug=overfit"])
    keys = [key for key in field_types() if "dropout" in key]
    assert len(keys) == 4
    assert {key: attrgetter(key)(config) for key in keys} == dict.fromkeys(keys, 0.0)


def test_the_debug_flag_needs_no_value() -> None:
    assert compose_config(["--debug"]).debug is True


def test_every_group_file_sets_only_known_keys_and_says_what_it_is() -> None:
    from neobert.config.group_files import conf_dir

    for file in conf_dir().rglob("*.yaml"):
        text = file.read_text()
        assert text.startswith("# "), file
        assert len(text.splitlines()) <= 90, file
        assert isinstance(yaml.safe_load(text), dict), file
