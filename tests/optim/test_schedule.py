"""Schedules against the reference's golden values, and what is said when a warm-up is cut."""

import logging

import pytest
import torch

from neobert.config.compose import compose_config
from neobert.config.scheduler import SchedulerConfig
from neobert.optim.schedule import LrStage, Schedule, build_scheduler, resolve_schedule

COSINE = [1e-4, 0.25007, 0.50005, 0.75002, 1, 0.93971, 0.775, 0.55, 0.325, 0.16029, 0.1, 0.1]
LINEAR = [1e-4, 0.25007, 0.50005, 0.75002, 1, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1, 0.1]


@pytest.mark.proves("scheduler.name", "scheduler.final_lr_ratio")
@pytest.mark.parametrize(("name", "expected"), [("cosine", COSINE), ("linear", LINEAR)])
def test_factors_are_the_references(name: str, expected: list[float]) -> None:
    schedule = Schedule(name, total=10, warmup=4, decay_end=10, final_ratio=0.1)
    assert [schedule.factor(t) for t in range(12)] == pytest.approx(expected, abs=6e-6)


@pytest.mark.proves("scheduler.name", "scheduler.final_lr_ratio")
@pytest.mark.parametrize(("name", "expected"), [("cosine", COSINE), ("linear", LINEAR)])
def test_the_settings_give_the_references_factors(name: str, expected: list[float]) -> None:
    words = [f"scheduler.name={name}", "scheduler.warmup_steps=4", "scheduler.final_lr_ratio=0.1"]
    schedule = resolve_schedule(compose_config(words).scheduler, max_steps=10)
    assert [schedule.factor(t) for t in range(12)] == pytest.approx(expected, abs=6e-6)


@pytest.mark.proves("scheduler.final_lr_ratio")
def test_the_floor_is_the_final_ratio() -> None:
    schedule = resolve_schedule(compose_config(["scheduler.final_lr_ratio=0.25"]).scheduler, 100)
    assert schedule.factor(100) == pytest.approx(0.25)


def test_learning_rates_of_the_optimizer_are_the_references() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    scheduler = build_scheduler(optimizer, Schedule("cosine", 6, 2, 6, 0.2))
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    golden = [5e-6, 0.025003, 0.05, 0.044142, 0.03, 0.015858, 0.01]
    assert rates == pytest.approx(golden, rel=1e-4)


@pytest.mark.proves(
    "scheduler.total_steps",
    "scheduler.warmup_steps",
    "scheduler.decay_steps",
    "scheduler.warmup_percent",
    "scheduler.decay_percent",
)
@pytest.mark.parametrize(
    ("settings", "warmup", "decay_end"),
    [
        ({"warmup_steps": 10}, 10, 100),
        ({"warmup_steps": 10, "decay_steps": 60}, 10, 60),
        ({"warmup_steps": 10, "decay_steps": 5}, 10, 11),
        ({"warmup_steps": 10, "total_steps": 50}, 10, 50),
        ({"total_steps": 50, "warmup_percent": 6.0, "decay_percent": 90.0}, 3, 45),
        ({"warmup_steps": 77, "warmup_percent": 0.0}, 0, 100),
    ],
)
def test_lengths(
    settings: dict[str, float], warmup: int, decay_end: int, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = resolve_schedule(SchedulerConfig(**settings), max_steps=100)
    assert (schedule.warmup, schedule.decay_end) == (warmup, decay_end)
    assert caplog.text == ""


@pytest.mark.proves("scheduler.warmup_steps")
def test_a_warm_up_as_long_as_the_run_is_cut_to_a_tenth(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="neobert"):
        schedule = resolve_schedule(SchedulerConfig(warmup_steps=10_000), max_steps=1_000)
    assert (schedule.warmup, schedule.decay_end) == (100, 1_000)
    assert "10000 steps would fill the whole run of 1000, so it takes a tenth, 100" in caplog.text


@pytest.mark.parametrize("max_steps", [1, 2, 9])
def test_the_shortest_runs_have_a_schedule(max_steps: int) -> None:
    schedule = resolve_schedule(SchedulerConfig(), max_steps)
    assert schedule.factor(0) == 1.0


@pytest.mark.proves("scheduler.num_cycles")
def test_num_cycles_are_waves_between_warm_up_and_end() -> None:
    config = SchedulerConfig(warmup_steps=0, num_cycles=1.0, final_lr_ratio=0.0)
    schedule = resolve_schedule(config, max_steps=100)
    assert [schedule.factor(t) for t in (0, 25, 50, 75)] == pytest.approx([1, 0.5, 0, 0.5])


def numbers_of_wsd(shape: str) -> list[float]:
    config = SchedulerConfig(
        name="wsd", warmup_steps=4, decay_length=4, decay_shape=shape, final_lr_ratio=0.2
    )
    schedule = resolve_schedule(config, max_steps=20)
    return [schedule.factor(step) for step in (0, 4, 16, 17, 18, 19, 20, 21)]


@pytest.mark.parametrize(
    ("shape", "decay"),
    [
        ("linear", [0.8, 0.6, 0.4]),
        ("cosine", [0.882843, 0.6, 0.317157]),
        ("sqrt", [0.6, 0.434315, 0.307180]),
    ],
)
def test_wsd_is_flat_between_warm_up_and_the_final_decay(shape: str, decay: list[float]) -> None:
    expected = [1e-4, 1, 1, *decay, 0.2, 0.2]
    assert numbers_of_wsd(shape) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "start", "end"),
    [
        ({}, 90, 100),
        ({"decay_length_percent": 25.0}, 75, 100),
        ({"decay_length": 40, "decay_length_percent": 25.0}, 60, 100),
        ({"decay_length": 40, "decay_steps": 80}, 40, 80),
    ],
)
def test_where_the_wsd_decay_begins(
    settings: dict[str, float], start: int, end: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = SchedulerConfig(name="wsd", warmup_steps=10, **settings)
    schedule = resolve_schedule(config, max_steps=100)
    assert (schedule.decay_start, schedule.decay_end) == (start, end)
    assert caplog.text == ""


def test_a_wsd_decay_that_would_begin_within_the_warm_up_is_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = SchedulerConfig(name="wsd", warmup_steps=30, decay_length=90)
    with caplog.at_level(logging.WARNING, logger="neobert"):
        schedule = resolve_schedule(config, max_steps=100)
    assert schedule.decay_start == 30
    assert "takes 70 steps" in caplog.text


def test_a_constant_schedule_never_decays() -> None:
    schedule = resolve_schedule(SchedulerConfig(name="constant", warmup_steps=2), max_steps=10)
    assert [schedule.factor(step) for step in (0, 2, 9, 10, 50)] == [1e-4, 1, 1, 1, 1]


def test_stages_have_learning_rates_of_their_own() -> None:
    stages = (
        LrStage(10, 20, 0.375),
        LrStage(20, 30, 0.375, decay="sqrt", final_ratio=0.0),
    )
    schedule = Schedule("constant", 30, 4, 30, 0.1, stages=stages)
    found = [schedule.factor(step) for step in (2, 4, 9, 10, 19, 20, 25, 29)]
    end = 0.375 * (1 - 0.9**0.5)
    half = 0.375 * (1 - 0.5**0.5)
    assert found == pytest.approx([0.50005, 1, 1, 0.375, 0.375, 0.375, half, end])


def test_the_warm_up_rises_to_the_rate_of_its_stage() -> None:
    schedule = Schedule("constant", 30, 4, 30, 0.1, stages=(LrStage(0, 30, 0.5),))
    assert schedule.factor(2) == pytest.approx(0.250025)
    assert schedule.factor(4) == 0.5
