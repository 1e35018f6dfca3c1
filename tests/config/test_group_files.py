from pathlib import Path

import pytest

from neobert.commands.settings import check_settings_files, copy
from neobert.config.compose import compose_config
from neobert.config.group_files import group_names, options
from neobert.errors import ConfigError


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed: 1\ntrainer: {save_steps: [1\n", "{file}: line 3: expected ',' or ']'"),
        ("seed: 1\nseed: 2\n", "{file}: line 2: found duplicate key seed"),
        ('seed: "\x07"\n', "{file}: unacceptable character #x0007"),
        (f"seed: {'[' * 5000}", "a group file cannot be read (maximum recursion depth"),
    ],
)
def test_a_group_file_that_cannot_be_parsed_is_one_problem_with_its_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = write(tmp_path, "experiment/syntax", text)
    with pytest.raises(ConfigError) as error:
        compose_config(["experiment=syntax"], tmp_path)
    assert error.value.problems[-1].startswith(problem.format(file=file))
    assert len(error.value.problems) == 1


def test_the_check_reports_the_problems_of_all_files(tmp_path: Path) -> None:
    files = [
        write(tmp_path, "experiment/syntax", "seed: [1\n"),
        write(tmp_path, "experiment/unknown", "# @package _global_\nsed: 1\n"),
    ]
    latin = tmp_path / "experiment" / "latin.yaml"
    latin.write_bytes(b"# \xe9\nseed: 1\n")
    with pytest.raises(ConfigError) as error:
        check_settings_files([*files, latin])
    assert [line.split(": ")[0] for line in error.value.problems] == [*map(str, files), str(latin)]


def test_the_check_takes_nested_group_files_and_files_in_a_folder_called_as_a_group(
    tmp_path: Path,
) -> None:
    nested = "# @package _global_\ndefaults:\n  - override /model: neobert_tiny\nseed: 1\n"
    schema = "defaults: [neobert_schema, _self_]\nseed: 1\n"
    check_settings_files(
        [
            write(tmp_path, "conf/experiment/team/b", nested),
            write(tmp_path, "conf/model/team/small", "dropout_prob: 0.2\n"),
            write(tmp_path, "model/run/config", "model: {dropout_prob: 0.2}\n"),
            write(tmp_path, "conf/primary", schema),
        ]
    )
    wrong = write(tmp_path, "conf/model/team/wrong", "hiden_size: 64\n")
    with pytest.raises(ConfigError, match=r"unknown key model\.hiden_size"):
        check_settings_files([wrong])


def test_every_copied_group_file_is_selected_by_the_printed_overrides(tmp_path: Path) -> None:
    for group in group_names():
        option = options(group)[0]
        copy(f"{group}={option}", tmp_path, None)
        assert compose_config([f"{group}=my_{option}"], tmp_path)
    copy("task=glue", tmp_path, None)
    assert compose_config(["task=my_glue"], tmp_path).task == "glue"
    with pytest.raises(ConfigError, match="task=my_none: must be one of"):
        compose_config(["task=my_none"], tmp_path)


@pytest.mark.parametrize("name", ["config_path", "model"])
def test_a_value_outside_its_limits_is_reported_with_its_origin(tmp_path: Path, name: str) -> None:
    is_group = name == "model"
    file = write(
        tmp_path, "model/bad", "dropout_prob: 3\n" if is_group else "model.dropout_prob: 3"
    )
    word = "model=bad" if is_group else f"config_path={file}"
    with pytest.raises(ConfigError) as error:
        compose_config([word, "optimizer.lr=-3", "stages=[{lr: -1}]"], tmp_path)
    assert set(error.value.problems) >= {
        f"{file}: model.dropout_prob=3.0: must be between 0 and 0.999",
        "command line: optimizer.lr=-3.0: must be at least 0",
        "command line: stages[0].lr=-1.0: must be at least 0",
    }


def test_the_schema_of_a_group_is_no_option_and_sets_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError) as error:
        compose_config(["model=none"])
    assert "neobert_tiny" in error.value.problems[0]
    assert "schema" not in error.value.problems[0]
    write(tmp_path, "model/mine", "defaults: [schema]\ndropout_prob: 0.2\n")
    assert compose_config(["model=mine"], tmp_path).model.dropout_prob == 0.2
    assert "sets" not in caplog.text


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("optimizer", "lr", float("inf")),
        ("optimizer", "lr", float("nan")),
        ("optimizer", "lr", 10**400),
        ("trainer", "max_steps", 2**70),
        ("trainer", "max_steps", True),
    ],
)
def test_python_refuses_the_numbers_that_the_command_line_refuses(
    section: str, name: str, value: float
) -> None:
    config = compose_config([])
    with pytest.raises(ConfigError, match="must be"):
        setattr(getattr(config, section), name, value)
    vars(getattr(config, section))[name] = value
    assert any(line.startswith(f"{section}.{name}=") for line in config.problems())


def test_a_flag_of_an_unknown_key_is_not_said_to_be_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ConfigError, match="unknown key max_steps"):
        compose_config(["--max_steps=10"])
    assert "is accepted" not in caplog.text
    compose_config(["--trainer.max_steps=10", "--experiment=quickstart", "--model", "ngpt"])
    assert caplog.text.count("is accepted; in Hydra's form") == 3
