"""Stages of a run: what is wrong with them is said at once, with the key."""

from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.config.section import value_problems
from neobert.config.stages import StageConfig, stage_ends
from neobert.errors import ConfigError


def stages(*ends: str | None) -> list[StageConfig]:
    return [StageConfig(until=end) for end in ends]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (("80%", "90%", None), [800, 900, 1000]),
        (("300", "100%"), [300, 1000]),
        ((None,), [1000]),
        ((), []),
    ],
)
def test_where_stages_end(ends: tuple[str | None, ...], expected: list[int]) -> None:
    assert stage_ends(stages(*ends), 1000) == (expected, [])


@pytest.mark.parametrize(
    ("ends", "problem"),
    [
        (("90%", "80%", None), "stages[1].until=80%: is step 800"),
        (("90%", "90%"), "stages[1].until=90%: is step 900"),
        ((None, "90%"), "stages[0].until: only the last stage"),
        (("50%", "900"), "the last stage ends at step 900, the run at trainer.max_steps=1000"),
        (("soon", None), "stages[0].until=soon: must be a step or a percentage"),
        (("120%", None), "stages[0].until=120%: must be a step or a percentage"),
        (("0", None), "stages[0].until=0: is step 0"),
        (("2000", None), "stages[1].until=None: is step 1000"),
    ],
)
def test_stages_that_overlap_or_do_not_end(ends: tuple[str | None, ...], problem: str) -> None:
    _, problems = stage_ends(stages(*ends), 1000)
    assert problem in "\n".join(problems)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"decay": "linear"}, "stages[2].decay=linear: needs stages[2].lr"),
        ({"decay": "step", "lr": 1e-3}, "stages[2].decay=step: must be one of"),
        ({"mlm_probability": 1.5}, "stages[2].mlm_probability=1.5: must be between"),
        ({"rope_theta": 0.0}, "stages[2].rope_theta=0.0: must be greater"),
        ({"gradient_accumulation_steps": 0}, "stages[2].gradient_accumulation_steps=0"),
    ],
)
def test_a_stage_that_is_wrong(settings: dict[str, object], problem: str) -> None:
    stage = StageConfig(**settings)
    problems = [*value_problems("stages[2]", stage, StageConfig), *stage.combinations("stages[2]")]
    assert problem in "\n".join(problems)


def test_stages_come_from_the_command_line_and_their_problems_are_said_with_their_keys() -> None:
    config = compose_config(
        [
            "trainer.max_steps=100",
            "stages=[{until: 90%, max_seq_length: 128},{lr: 1e-4, decay: sqrt}]",
        ]
    )
    assert [stage.until for stage in config.stages] == ["90%", None]
    assert config.stages[1].lr == 1e-4
    with pytest.raises(ConfigError) as error:
        compose_config(
            [
                "trainer.max_steps=100",
                "stages=[{until: 90%, max_seq_length: 1128, rope_theta: big, unti: 3}, 7]",
            ]
        )
    text = "\n".join(error.value.problems)
    for problem in (
        "unknown key stages[0].unti; did you mean until?",
        "stages[0].rope_theta=big: must be number or null",
        "stages[1]=7: must be a mapping",
        "stages[0]: dataset.max_seq_length=1128 is longer than",
    ):
        assert problem in text


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["task=glue"], "stages: only pretraining has stages"),
        (["trainer.max_steps=0"], "stages needs trainer.max_steps above 0"),
        (["dataset.skip_steps=[1-2]"], "stages and dataset.skip_steps exclude each other"),
    ],
)
def test_what_stages_do_not_go_with(settings: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_config(["trainer.max_steps=100", "stages=[{until: 90%},{}]", *settings])
    assert problem in "\n".join(error.value.problems)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["dataset.crop_min_length=511"], "dataset.crop_min_length=511 is longer than documents"),
        (["dataset.crop_share=1.2"], "dataset.crop_share=1.2: must be between"),
    ],
)
def test_crops_longer_than_rows_are_refused(settings: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_config(settings)
    assert problem in "\n".join(error.value.problems)


def test_a_setting_of_one_stage_can_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("stages: [{until: 90%, max_seq_length: 128}, {max_seq_length: 256}]")
    config = compose_config(
        [f"config_path={file}", "trainer.max_steps=10", "stages.1.max_seq_length=64"]
    )
    assert [stage.max_seq_length for stage in config.stages] == [128, 64]
    assert config.stages[0].until == "90%"
    with pytest.raises(ConfigError, match=r"unknown key stages\.2\.lr"):
        compose_config([f"config_path={file}", "trainer.max_steps=10", "stages.2.lr=1"])
