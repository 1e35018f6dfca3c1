"""Bad mixtures are refused before anything loads, all of their problems at once."""

import pytest

from neobert.config.compose import compose_config
from neobert.config.mixture import mixture_sources
from neobert.errors import ConfigError

GOOD = "dataset.mixture={web: {path: /w, weight: 0.7}, wiki: {path: /k, weight: 0.3}}"
STEPS = "trainer.max_steps=100"


def problems(*overrides: str) -> list[str]:
    try:
        compose_config([STEPS, *overrides])
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.proves("dataset.mixture")
def test_sources_inherit_all_but_where_the_text_is() -> None:
    config = compose_config(
        [
            STEPS,
            "dataset.path=/other",
            "dataset.text_column=body",
            "dataset.mixture.web={path: /w, weight: 0.7}",
            "dataset.mixture.books={name: imdb, text_column: text, weight: 0.3, max_epochs: 2}",
        ]
    )
    web, books = mixture_sources(config.dataset)
    assert (web.name, web.dataset.path, web.dataset.text_column, web.weight) == (
        *("web", "/w", "body", 0.7),
    )
    assert (books.dataset.path, books.dataset.name, books.dataset.text_column) == (
        *("", "imdb", "text"),
    )
    assert (web.max_epochs, books.max_epochs) == (None, 2)


@pytest.mark.parametrize(
    ("mixture", "problem"),
    [
        ("{a: {path: x, weight: 0.5}, b: {path: y, weight: 0.4}}", "the weights sum to 0.9, not"),
        ("{a: {path: x, weight: 0.5}, b: {path: y}}", "dataset.mixture: b without a weight"),
        ("{a: {path: x, weight: -1}}", "dataset.mixture.a.weight=-1: must be at least 0"),
        ("{a: {path: x, weight: half}}", "dataset.mixture.a.weight='half': must be number"),
        ("{a: {path: x, max_epochs: 0}}", "dataset.mixture.a.max_epochs=0: must be greater"),
        ("{a: {weight: 1}}", "dataset.mixture.a: needs dataset.mixture.a.path or"),
        ("{a: {pth: x}}", "unknown key dataset.mixture.a.pth; did you mean dataset.mixture.a.path"),
        ("{a: {path: 3}}", "dataset.mixture.a.path=3: must be text"),
        ("{a: {path: x, validation_split: 2}}", "dataset.mixture.a.validation_split=2: must be"),
        ("{a b: {path: x}}", "dataset.mixture: 'a b' cannot name a source"),
        ("{a: here}", "dataset.mixture.a='here': must be a mapping"),
    ],
)
def test_a_bad_source_is_told_with_its_key(mixture: str, problem: str) -> None:
    assert [line for line in problems(f"dataset.mixture={mixture}") if problem in line]


@pytest.mark.proves("stages")
def test_weights_of_stages_are_checked_against_the_mixture() -> None:
    found = problems(
        GOOD,
        "stages=[{until: 50%, mixture: {web: 0.5, wiki: 0.4}}, {until: 80%, mixture: {wki: 1.0}},"
        "{mixture: {wiki: -1, web: 2}, mixture_temperature: -0.5}]",
    )
    assert found == [
        "command line: stages[2].mixture.wiki=-1.0: must be at least 0",
        "command line: stages[2].mixture_temperature=-0.5: must be at least 0",
        "stages[0].mixture: the weights sum to 0.9, not to 1; in these proportions they are "
        "0.555556, 0.444444",
        "stages[1].mixture.wki: is not a source of dataset.mixture, which has web, wiki",
    ]
    assert problems("stages=[{mixture: {web: 1}}]") == [
        "stages[0].mixture: needs dataset.mixture, whose sources it weights"
    ]


def test_everything_is_told_at_once() -> None:
    found = problems(
        "dataset.mixture={a: {path: x, weight: -1, pth: y}, b: {}}",
        "dataset.mixture_temperature=-1",
        "trainer.max_steps=-1",
        "task=contrastive",
    )
    keys = (
        "dataset.mixture_temperature=-1.0",
        "dataset.mixture.a.pth",
        "dataset.mixture.a.weight=-1",
        "dataset.mixture.b: needs",
        "dataset.mixture: only pretraining",
        "dataset.mixture needs trainer.max_steps above 0",
    )
    assert all(any(key in line for line in found) for key in keys), found


def test_a_metric_of_a_source_may_be_the_best() -> None:
    best = ("trainer.metric_for_best_model=eval/bits_per_byte/wiki", "trainer.greater_is_better=")
    assert problems(GOOD, best[0], f"{best[1]}false") == []
    assert "is better when smaller" in problems(GOOD, best[0], f"{best[1]}true")[0]
    assert "must be one of loss" in problems(GOOD, f"{best[0]}x", f"{best[1]}false")[0]


def test_weights_of_a_stage_are_overridden_by_its_number() -> None:
    stages = "stages=[{until: 50%}, {mixture: {web: 0.5, wiki: 0.5}}]"
    whole = compose_config([STEPS, GOOD, stages, "stages.1.mixture={wiki: 1.0}"])
    assert whole.stages[1].mixture == {"wiki": 1.0}
    parts = ("stages.1.mixture.web=0.25", "stages.1.mixture.wiki=0.75")
    assert compose_config([STEPS, GOOD, stages, *parts]).stages[1].mixture == {
        "web": 0.25,
        "wiki": 0.75,
    }
    assert "the weights sum to 0.75, not to 1" in problems(GOOD, stages, parts[0])[0]
