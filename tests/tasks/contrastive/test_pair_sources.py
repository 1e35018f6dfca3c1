"""Which source a name means, and what an own one needs."""

import pytest

from neobert.config.contrastive import ContrastiveConfig
from neobert.errors import ConfigError
from neobert.tasks.contrastive.pair_sources import TABLE, own_source, select_sources

PAIRS = {"path": "pairs.jsonl", "query": "question", "positive": "answer"}


def selected(name: str, **own: object) -> list[str]:
    return [one.name for one in select_sources(name, ContrastiveConfig(sources=own))]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("ALLNLI", ["ALLNLI"]),
        ("all-nli", ["ALLNLI"]),
        ("sentence-transformers/all-nli", ["ALLNLI"]),
        ("stackoverflowdupquestions-reranking", ["STACKOVERFLOW"]),
        ("qqp, PAQ ,QQP_triplets", ["QQP", "PAQ"]),
        ("[MSMARCO,FEVER]", ["MSMARCO", "FEVER"]),
        ("factbook", ["FACTBOOK"]),
    ],
)
@pytest.mark.proves("dataset.name")
def test_a_source_is_found_by_its_name_its_id_or_the_last_part_of_it(name, found):
    assert selected(name) == found


@pytest.mark.parametrize("name", ["", "ALL", "all", "refinedweb"])
def test_all_are_the_17_of_the_hub_and_the_own_ones(name):
    found = selected(name, mine=PAIRS)
    assert len(found) == 18
    assert found[-1] == "mine"
    assert not {"FACTBOOK", "WORDNET"} & set(found)


@pytest.mark.parametrize("name", ["someone/all-nli", "allnl", "imdb"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"is no source of pairs; there are ALLNLI, AMAZONQA"):
        selected(name)


def test_own_sources_that_nothing_selects_are_an_error():
    with pytest.raises(ConfigError, match=r"defines mine, but dataset.name=factbook selects none"):
        selected("factbook", mine=PAIRS)
    assert selected("factbook,mine", mine=PAIRS) == ["FACTBOOK", "mine"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": None}, "needs either path"),
        ({"hub": "me/pairs"}, "needs either path"),
        ({"query": None}, "needs the columns query and positive, or text and label"),
        ({"text": "sentence", "label": "class"}, "needs the columns query and positive, or text"),
        ({"column": "x"}, r"contrastive.sources.mine.column: unknown"),
    ],
)
@pytest.mark.proves("contrastive.sources")
def test_an_own_source_without_what_it_needs_is_one_clear_error(change, message):
    with pytest.raises(ConfigError, match=message):
        own_source("mine", {**PAIRS, **change})


def test_a_single_negative_column_needs_no_list():
    assert own_source("mine", {**PAIRS, "negatives": "wrong"}).negatives == ("wrong",)


def test_the_table_has_the_sources_of_the_reference_and_two_that_need_no_hub():
    hub = [one for one in TABLE.values() if one.package is None]
    assert len(hub) == 17
    assert all(one.hub.count("/") == 1 for one in hub)
    assert all(one.joined or (one.query and one.positive) for one in hub)
