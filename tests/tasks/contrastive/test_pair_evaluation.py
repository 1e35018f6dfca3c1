"""Metrics of held-out pairs against their definitions, one query at a time."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from neobert.errors import ConfigError
from neobert.tasks.contrastive.pair_evaluation import EvaluationSet
from tests.tasks.contrastive.conftest import encoder


def row(query: int, positive: int, group: int | None = None) -> dict[str, object]:
    return {
        "query": [2, query, 3],
        "positive": [2, positive, 3],
        "query_text": query,
        "positive_text": positive,
        "group": query if group is None else group,
    }


ROWS = [row(1, 11), row(2, 12), row(2, 13), row(3, 11), row(12, 14)]
"""Query 2 has two answers, document 11 answers two queries, and 12 is both query and document."""


def evaluation() -> EvaluationSet:
    found = EvaluationSet()
    found.add_pairs("own", ROWS)
    return found


def test_each_document_is_encoded_once():
    texts = [text[1] for text in evaluation().texts]
    assert texts == [11, 12, 13, 14, 1, 2, 2, 3, 12]


def test_metrics_are_their_definitions():
    for seed in range(10):
        vectors = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed))
        unit = F.normalize(vectors, dim=1)
        documents = dict(zip((11, 12, 13, 14), unit[:4], strict=True))
        answers = {1: {11}, 2: {12, 13}, 3: {11}, 12: {14}}
        ranks, losses, distances = [], [], []
        for one, query in zip(ROWS, unit[4:], strict=True):
            own = documents[one["positive_text"]]
            wrong = [
                vector
                for number, vector in documents.items()
                if number not in answers[one["query_text"]] and number != one["query_text"]
            ]
            ranks.append(1 + sum(float(query @ other) >= float(query @ own) for other in wrong))
            logits = torch.stack([own, *wrong]) @ query / 0.1
            losses.append(-logits.log_softmax(0)[0])
            distances.append((query - own).square().sum())
        apart = [(a - b).square().sum() for i, a in enumerate(unit[:4]) for b in unit[:i]]
        found = evaluation().metrics(vectors, 0.1)
        assert found == pytest.approx(
            {
                "eval/loss": float(torch.stack(losses).mean()),
                "eval/accuracy_at_1": sum(rank == 1 for rank in ranks) / 5,
                "eval/mrr_at_10": sum(1 / rank for rank in ranks) / 5,
                "eval/alignment": float(torch.stack(distances).mean()),
                "eval/uniformity": float(torch.stack(apart).mul(-2).exp().mean().log()),
            },
            abs=1e-5,
        )


def test_a_collapsed_encoder_gets_no_credit_for_ties():
    found = evaluation().metrics(torch.ones(9, 3), 0.1)
    assert found["eval/accuracy_at_1"] == 0.0


def test_ranks_beyond_ten_count_nothing_in_mrr_at_10():
    held = EvaluationSet()
    held.add_pairs("own", [row(number, 100 + number) for number in range(12)])
    vectors = torch.cat([torch.eye(12), torch.eye(12).roll(1, 0)])
    vectors[12:] = torch.linspace(1, 2, 12)  # all queries alike: document 11 is first for all
    ranks = range(12, 0, -1)
    expected = sum(1 / rank for rank in ranks if rank <= 10) / 12
    assert held.metrics(vectors, 0.1)["eval/mrr_at_10"] == pytest.approx(expected)


def test_several_sources_are_told_one_by_one_and_in_their_mean():
    held = EvaluationSet()
    held.add_pairs("one", ROWS[:2])
    held.add_pairs("two", ROWS[2:4])
    found = held.metrics(torch.randn(len(held.texts), 3), 0.1)
    mean = (found["eval/one/mrr_at_10"] + found["eval/two/mrr_at_10"]) / 2
    assert found["eval/mrr_at_10"] == pytest.approx(mean)


@pytest.mark.proves("contrastive.eval_sts")
def test_sts_is_the_rank_correlation_of_cosines_and_scores(info, tmp_path: Path):
    file = tmp_path / "sts.jsonl"
    pairs = [("the river", "a city", 1), ("the city", "the desert", 4.5), ("here", "there", 3)]
    lines = [json.dumps({"sentence1": a, "sentence2": b, "label": c}) for a, b, c in pairs]
    file.write_text("\n".join(lines))
    held = EvaluationSet()
    held.add_sts(str(file), encoder(info, 16))
    vectors = torch.randn(6, 4)
    cosines = F.cosine_similarity(vectors[:3], vectors[3:])
    expected = spearmanr(cosines, [1, 4.5, 3]).statistic
    assert held.metrics(vectors, 0.1) == pytest.approx({"eval/sts_spearman": expected}, abs=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no such file"), ('{"a": 1}', "needs the columns sentence1"), ("", "empty")],
)
def test_an_sts_file_that_cannot_serve_is_one_clear_error(content, message, info, tmp_path: Path):
    file = tmp_path / "sts.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        EvaluationSet().add_sts(str(file), encoder(info, 16))


def test_the_best_model_s_metric_must_be_one_that_is_logged() -> None:
    found = evaluation()
    for name in (None, "mrr_at_10", "eval/loss", "eval_alignment"):
        found.check_metric(name)
    with pytest.raises(ConfigError, match=r"metric_for_best_model=f1: .*mrr_at_10"):
        found.check_metric("f1")
    with pytest.raises(ConfigError, match="sts_spearman"):
        EvaluationSet(sts=(torch.zeros(1), torch.zeros(1), torch.zeros(1))).check_metric("loss")
