"""Contrastive losses against their formulas written out in float64, and across two processes."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.testing import assert_close

from neobert.losses.contrastive import (
    Anchors,
    Candidates,
    Similarity,
    gather_candidates,
    simcse_loss,
    supcon_loss,
)

Q = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
C = torch.tensor([[1.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
HARD = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)


def anchors_of(vectors: Tensor, texts=None, groups=None) -> Anchors:
    numbers = torch.arange(len(vectors))
    return Anchors(
        vectors=vectors,
        texts=-1 - numbers if texts is None else torch.tensor(texts),
        groups=-1 - numbers if groups is None else torch.tensor(groups),
        own=numbers,
    )


def candidates_of(positives: Tensor, hard: Tensor | None = None, texts=None, groups=None):
    vectors = positives if hard is None else torch.cat([positives, hard])
    numbers = torch.arange(len(vectors))
    return Candidates(
        vectors=vectors,
        texts=numbers if texts is None else torch.tensor(texts),
        groups=-1 - numbers if groups is None else torch.tensor(groups),
        is_hard=numbers >= len(positives),
    )


def reference(
    anchors: Anchors, candidates: Candidates, how: Similarity, several: bool
) -> tuple[float, int]:
    """One anchor and one candidate at a time: mean loss and number of hits."""
    total, hits = 0.0, 0
    for i in range(len(anchors.vectors)):
        logits, positives = {}, []
        own = int(anchors.own[i])
        for j in range(len(candidates.vectors)):
            hard = bool(candidates.is_hard[j])
            is_mine = candidates.texts[j] == candidates.texts[own]
            same_group = candidates.groups[j] == anchors.groups[i]
            copy = candidates.texts[j] == anchors.texts[i]
            positive = not hard and (is_mine or same_group)
            if positive and (several or j == own):
                positives.append(j)
            elif positive or is_mine or copy:
                continue
            cosine = torch.cosine_similarity(anchors.vectors[i], candidates.vectors[j], dim=0)
            logits[j] = float(cosine) / how.temperature + hard * how.hard_negative_weight
        largest = max(logits.values())
        log_sum = largest + math.log(sum(math.exp(x - largest) for x in logits.values()))
        total += sum(log_sum - logits[j] for j in positives) / len(positives)
        hits += max(logits, key=lambda j: logits[j]) in positives
    return total / len(anchors.vectors), hits


@pytest.mark.parametrize("loss", [simcse_loss, supcon_loss])
def test_golden_values_of_the_reference_implementation(loss):
    how = Similarity(temperature=0.5)
    found = loss(anchors_of(Q), candidates_of(C), how)
    assert float(found.mean * 2) == pytest.approx(0.66017, abs=1e-5)
    found = loss(anchors_of(Q), candidates_of(C, HARD), how)
    assert float(found.mean * 2) == pytest.approx(1.72533, abs=1e-5)


@pytest.mark.parametrize("several", [False, True], ids=["simcse", "supcon"])
@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.proves("contrastive.loss_type")
def test_losses_are_their_formulas_with_copies_groups_and_hard_negatives(several, weight):
    draw = torch.Generator().manual_seed(int(several))
    for _ in range(20):
        vectors = torch.randn(6 + 11, 5, dtype=torch.float64, generator=draw)
        few = {"low": -4, "high": 8, "generator": draw}
        groups = torch.randint(size=(6,), **few)
        anchors = Anchors(vectors[:6], torch.randint(size=(6,), **few), groups, torch.arange(6) + 1)
        candidates = Candidates(
            vectors[6:],
            torch.randint(size=(11,), **few),
            # Positives stand at 1 … 6, one of another rank at 0, hard negatives from 7 on.
            torch.cat([torch.randint(size=(1,), **few), groups, groups[:4]]),
            torch.arange(11) > 6,
        )
        how = Similarity(0.3, weight)
        found = (supcon_loss if several else simcse_loss)(anchors, candidates, how)
        mean, hits = reference(anchors, candidates, how, several)
        assert float(found.mean) == pytest.approx(mean, rel=1e-12)
        assert int(found.correct) == hits


@pytest.mark.parametrize("loss", [simcse_loss, supcon_loss])
def test_gradients_are_those_of_finite_differences(loss):
    queries = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    documents = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)

    def mean(q: Tensor, c: Tensor) -> Tensor:
        groups = [0, 1, 0, 2]
        anchors = anchors_of(q, groups=groups)
        candidates = candidates_of(
            c[:4], c[4:], texts=[0, 1, 2, 1, 4, 5, 1], groups=[*groups, 3, 4, 5]
        )
        return loss(anchors, candidates, Similarity(0.5, 0.3)).mean

    assert torch.autograd.gradcheck(mean, (queries, documents))


def test_supcon_with_one_positive_each_is_simcse():
    queries, documents = torch.randn(2, 5, 4, dtype=torch.float64)
    pair = anchors_of(queries), candidates_of(documents)
    assert_close(simcse_loss(*pair, Similarity()).mean, supcon_loss(*pair, Similarity()).mean)


def test_supcon_pulls_all_documents_of_a_group_where_simcse_only_leaves_them_out():
    # Anchors 0 and 1 share a group; their documents stand apart.
    anchors = anchors_of(Q, groups=[7, 7])
    candidates = candidates_of(Q, groups=[7, 7])
    simcse = simcse_loss(anchors, candidates, Similarity(0.5)).mean
    supcon = supcon_loss(anchors, candidates, Similarity(0.5)).mean
    assert float(simcse) == 0.0  # nothing is left to tell the own document from
    expected = math.log(math.exp(2) + 1) - 1  # mean of the log-probabilities of cos 1 and 0
    assert float(supcon) == pytest.approx(expected)


@pytest.mark.proves("contrastive.temperature")
def test_a_lower_temperature_sharpens_the_same_similarities():
    anchors, candidates = anchors_of(Q), candidates_of(C)
    warm = simcse_loss(anchors, candidates, Similarity(1.0)).mean
    assert float(warm * 2) == pytest.approx(
        math.log(1 + math.exp(-(0.5**0.5))) + math.log(1 + math.exp(0.5**0.5 - 1))
    )
    assert simcse_loss(anchors, candidates, Similarity(0.1)).mean < warm


@pytest.mark.proves("contrastive.hard_negative_weight")
def test_a_hard_negative_of_weight_log_2_counts_as_two():
    once = candidates_of(C, HARD)
    twice = candidates_of(C, HARD.repeat(2, 1))
    how = Similarity(0.5, math.log(2))
    weighted = simcse_loss(anchors_of(Q), once, how).mean
    assert_close(weighted, simcse_loss(anchors_of(Q), twice, Similarity(0.5)).mean)


def test_a_document_that_stands_twice_in_the_batch_is_no_negative_of_itself():
    # Three pairs, of which the first and the last have the same document.
    anchors, documents = anchors_of(Q[[0, 1, 1]]), C[[0, 1, 0]]
    found = simcse_loss(anchors, candidates_of(documents, texts=[0, 1, 0]), Similarity()).mean
    rows = [
        simcse_loss(anchors_of(Q[:1]), candidates_of(C), Similarity()).mean,
        simcse_loss(anchors_of(Q[1:]), candidates_of(C[[1, 0, 0]]), Similarity()).mean,
        simcse_loss(anchors_of(Q[1:]), candidates_of(C), Similarity()).mean,
    ]
    assert_close(found, torch.stack(rows).mean())


def test_a_hard_negative_with_the_text_of_the_positive_or_the_query_is_left_out():
    texts = [0, 1, 0, 8]  # the last two: copies of the document and of the query
    hard = candidates_of(C, torch.cat([C[:1], Q[:1]]), texts=texts)
    found = simcse_loss(anchors_of(Q[:1], texts=[8]), hard, Similarity()).mean
    assert_close(found, simcse_loss(anchors_of(Q[:1]), candidates_of(C), Similarity()).mean)


def test_the_scale_of_the_gradient_does_not_grow_with_the_batch():
    draw = torch.Generator().manual_seed(1)
    norms = []
    for size in (8, 64):
        queries = torch.randn(size, 16, generator=draw, requires_grad=True)
        documents = torch.randn(size, 16, generator=draw)
        simcse_loss(anchors_of(queries), candidates_of(documents), Similarity(1.0)).mean.backward()
        norms.append(float(queries.grad.norm()))
    assert norms[1] < norms[0]


def test_bf16_vectors_are_compared_in_fp32():
    found = simcse_loss(anchors_of(Q.bfloat16()), candidates_of(C.bfloat16()), Similarity(0.5))
    assert found.mean.dtype == torch.float32
    assert float(found.mean * 2) == pytest.approx(0.66017, abs=1e-5)


SIZES = (3, 2)


def everything() -> tuple[Tensor, Tensor, Tensor]:
    """Queries, documents and a hard negative of each, of both ranks."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(3, sum(SIZES), 4, dtype=torch.float64, generator=draw).unbind()


def of_rank(rank: int, weight: Tensor, loss) -> Tensor:
    """The loss of a rank, whose encoder is a matrix; rank 1 has one hard negative, rank 0 three."""
    start = sum(SIZES[:rank])
    mine = slice(start, start + SIZES[rank])
    queries, documents, hard = (part[mine] @ weight for part in everything())
    local = candidates_of(documents, hard[: 3 - 2 * rank])
    local = replace(local, texts=local.texts + 100 * rank, groups=local.groups - 100 * rank)
    candidates, first = gather_candidates(local, sizes=[3 + 3, 2 + 1])
    anchors = anchors_of(queries)
    anchors = replace(anchors, own=anchors.own + first, groups=local.groups[: SIZES[rank]])
    return loss(anchors, candidates, Similarity(0.5, 0.2)).mean


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name, loss in (("simcse", simcse_loss), ("supcon", supcon_loss)):
        weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
        found = of_rank(rank, weight, loss)
        found.backward()
        torch.save((found.detach(), weight.grad), f"{folder}/{name}-{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_loss_and_gradient_of_one_with_all_candidates(tmp_path: Path):
    mp.spawn(rank_main, (str(tmp_path),), nprocs=2)
    for name, loss in (("simcse", simcse_loss), ("supcon", supcon_loss)):
        weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
        queries, documents, hard = (part @ weight for part in everything())
        candidates = candidates_of(documents, hard[[0, 1, 2, 3]])
        anchors = replace(anchors_of(queries), groups=candidates.groups[:5])
        rows = [
            loss(
                Anchors(*(field[i : i + 1] for field in fields_of(anchors))),
                candidates,
                Similarity(0.5, 0.2),
            ).mean
            for i in range(5)
        ]
        # Data parallelism takes the mean of the ranks' means.
        expected = (sum(rows[:3]) / 3 + sum(rows[3:]) / 2) / 2
        expected.backward()
        found = [torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1)]
        assert_close((found[0][0] + found[1][0]) / 2, expected.detach())
        assert_close((found[0][1] + found[1][1]) / 2, weight.grad)


def fields_of(anchors: Anchors) -> tuple[Tensor, ...]:
    return anchors.vectors, anchors.texts, anchors.groups, anchors.own
