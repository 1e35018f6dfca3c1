"""Batches by their number: shares of the sources, epochs, ranks, processes, resume."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset

from neobert.batch import IGNORE, MaskedBatch
from neobert.data.curriculum import MaskRate
from neobert.data.loader import CountedLoader, Workers
from neobert.data.masking import Masking
from neobert.data.packing import Packing
from neobert.data.steps import Share
from neobert.data.token_rows import RowMaker
from neobert.tasks.contrastive.batches import PairBatch, Texts, TwiceBatch
from neobert.tasks.contrastive.data import EvaluationTexts, held_out_rows, sample_of
from neobert.tasks.contrastive.pair_loader import Batches, Draws, PairRows
from neobert.training.callbacks.batch_digest import batch_digest


def rows(count: int, offset: int = 0, negatives: int = 0) -> list[dict[str, object]]:
    return [
        {
            "query": [2, 5 + number % 20, 3],
            "positive": [2, 5 + number % 20, 6, 7, 3],
            "negatives": [[2, 30 + one, 3] for one in range(negatives)],
            "query_text": offset + number,
            "positive_text": offset + 1000 + number,
            "negative_texts": [offset + 2000 + one for one in range(negatives)],
            "group": offset + number,
            "split": 0,
        }
        for number in range(count)
    ]


def source(name: str, count: int, offset: int = 0, negatives: int = 0) -> PairRows:
    table = Dataset.from_list(rows(count, offset, negatives))
    return PairRows(name, table, np.arange(count), seed=0)


def batches(sources, draws, share=None, hard_negatives=1, **changes) -> Batches:
    return Batches(sources, draws, share or Share(4, 1), 0, hard_negatives, **changes)


@pytest.mark.proves("dataset.alpha")
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_source_is_drawn_in_proportion_to_size_to_the_alpha(alpha):
    draws = Draws.of([900, 100], alpha, 0.0, 0, 20_000)
    share = 900**alpha / (900**alpha + 100**alpha)
    assert float((draws.source == 0).mean()) == pytest.approx(share, abs=0.01)


@pytest.mark.proves("dataset.pretraining_prob")
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_a_step_is_a_pretraining_step_with_that_probability(probability):
    draws = Draws.of([100], 1.0, probability, 0, 20_000)
    assert float(draws.is_pretraining.mean()) == pytest.approx(probability, abs=0.01)
    loaded = batches([source("a", 100)], Draws.of([100], 1.0, probability, 0, 40))
    kinds = Counter(type(loaded[number]) for number in range(40))
    assert kinds[TwiceBatch] == draws.is_pretraining[:40].sum()
    assert kinds[PairBatch] == 40 - kinds[TwiceBatch]


@pytest.mark.proves("dataset.validation_split")
def test_held_out_are_the_rows_that_say_so_and_a_fraction_of_the_other_queries():
    hashes = np.random.default_rng(0).integers(-(2**63), 2**63, 5000)
    split = np.repeat(np.array([0, 1, 2], np.int8), [100, 100, 4800])
    table = Dataset.from_dict({"split": split, "query_text": hashes})
    held = held_out_rows(table, 0.2)
    assert not held[:100].any()
    assert held[100:200].all()
    assert float(held[200:].mean()) == pytest.approx(0.2, abs=0.02)
    shuffled = np.random.default_rng(1).permutation(5000)
    moved = held_out_rows(Dataset.from_dict(table[shuffled]), 0.2)
    assert (moved == held[shuffled]).all()
    assert held_out_rows(table, None).sum() == 100


@pytest.mark.proves("dataset.eval_samples")
def test_evaluation_takes_a_sample_of_the_held_out_pairs_wherever_they_stand_in_the_file():
    hashes = np.random.default_rng(0).integers(-(2**63), 2**63, 20_000)
    table = Dataset.from_dict({"split": np.full(20_000, 2, np.int8), "query_text": hashes})
    held = np.flatnonzero(held_out_rows(table, 0.1))
    chosen = sample_of(table, held, 1000)
    assert len(set(chosen.tolist())) == 1000
    assert set(chosen.tolist()) <= set(held.tolist())
    assert float(chosen.mean()) == pytest.approx(10_000, rel=0.1)
    backwards = Dataset.from_dict(table[np.arange(20_000)[::-1]])
    same = sample_of(backwards, np.flatnonzero(held_out_rows(backwards, 0.1)), 1000)
    assert sorted(hashes[chosen]) == sorted(hashes[::-1][same])
    assert (sample_of(table, held, None) == held).all()


def test_an_epoch_sees_every_pair_once_and_the_next_in_another_order():
    draws = Draws.of([12], 1.0, 0.0, 0, 6)
    seen = [batches([source("a", 12)], draws)[number].query_texts.tolist() for number in range(6)]
    first, second = ([text for batch in seen[part : part + 3] for text in batch] for part in (0, 3))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_a_batch_has_one_source_and_all_ranks_the_same_with_other_rows():
    sources = [source("a", 40), source("b", 30, offset=500)]
    draws = Draws.of([40, 30], 1.0, 0.0, 0, 30)
    ranks = [batches(sources, draws, Share(4, 1, rank, 2)) for rank in (0, 1)]
    for number in range(30):
        one, two = (rank[number] for rank in ranks)
        assert one.source == two.source
        texts = torch.cat([one.query_texts, two.query_texts])
        assert len(set(texts.tolist())) == 8
        assert ((texts >= 500) == (one.source == "b")).all()


def test_a_source_smaller_than_a_batch_gives_smaller_ones_of_equal_size_on_all_ranks():
    draws = Draws.of([7], 1.0, 0.0, 0, 5)
    for rank in (0, 1):
        share = Share(16, 1, rank, 2)
        assert batches([source("a", 7)], draws, share)[3].num_pairs == 3


@pytest.mark.proves("contrastive.hard_negatives")
@pytest.mark.parametrize("asked", [0, 2, 9])
def test_up_to_so_many_hard_negatives_of_a_pair_are_drawn_anew_each_time(asked):
    draws = Draws.of([4], 1.0, 0.0, 0, 8)
    loaded = batches([source("a", 4, negatives=5)], draws, hard_negatives=asked)
    drawn = [loaded[number].document_texts[4:].tolist() for number in range(8)]
    each = min(asked, 5)
    assert {len(one) for one in drawn} == {4 * each}
    for one in drawn:
        assert all(len(set(one[at : at + each])) == each for at in range(0, len(one), each or 1))
    if asked == 2:
        assert len({tuple(one) for one in drawn}) > 1


@pytest.mark.proves("contrastive.pretraining_step")
def test_a_masked_step_keeps_what_stood_at_its_targets(info):
    masking = Masking(MaskRate.constant(0.4), True, mask_id=4, random_ids=np.arange(5, 64), seed=0)
    is_special = np.arange(64) < 5
    masker = RowMaker(replace(info, is_special=is_special), masking, Packing(8, 8, 2, False, True))
    loaded = batches([source("a", 8)], Draws.of([8], 1.0, 1.0, 0, 3), masker=masker)
    batch = loaded[2]
    assert isinstance(batch, MaskedBatch)
    assert (batch.inputs.input_ids[batch.positions] == 4).all()
    restored = batch.inputs.input_ids.scatter(0, batch.positions, batch.labels)
    originals = {tuple(row["positive"]) for row in rows(8)}
    assert {tuple(one.tolist()) for one in restored.split(5)} <= originals
    assert batch.num_targets == len(batch.labels) > 0
    assert IGNORE not in batch.labels


def test_pretraining_texts_come_from_the_corpus_where_there_is_one():
    corpus = [[2, 40 + number, 3] for number in range(10)]
    loaded = batches([source("a", 8)], Draws.of([8], 1.0, 1.0, 0, 30), corpus=corpus)
    seen = {int(token) for number in range(30) for token in loaded[number].texts.packed.input_ids}
    assert seen == {2, 3, *range(40, 50)}


@pytest.mark.proves("trainer.dataloader_num_workers")
def test_loader_processes_change_no_batch_and_a_resumed_loader_goes_on():
    sources = [source("a", 40, negatives=3), source("b", 30, 500)]
    loaded = batches(sources, Draws.of([40, 30], 0.5, 0.3, 0, 12))
    here = [batch_digest(batch) for batch in CountedLoader(loaded, 12, Workers())]
    assert len(set(here)) == 12
    assert [batch_digest(batch) for batch in CountedLoader(loaded, 12, Workers(2))] == here
    stopped, resumed = (
        CountedLoader(loaded, 12, Workers()),
        CountedLoader(loaded, 12, Workers()),
    )
    first = [batch_digest(batch) for batch in islice(stopped, 5)]
    resumed.load_state_dict(stopped.state_dict())
    assert first + [batch_digest(batch) for batch in resumed] == here


def test_chunks_are_the_texts_in_order_of_length_and_places_lead_back():
    given = [[1] * 5, [2] * 2, [3] * 9, [4], [5] * 2]
    texts = Texts.of(given, chunk_size=2)
    parts = texts.parts()
    assert [part.lengths.tolist() for part in parts] == [[1, 2], [2, 5], [9]]
    assert [part.max_seqlen for part in parts] == [2, 5, 9]
    assert [part.num_tokens for part in parts] == [3, 7, 9]
    documents = [one for part in parts for one in part.input_ids.split(part.lengths.tolist())]
    assert [documents[place].tolist() for place in texts.places] == given
    positions = torch.cat([part.position_ids for part in parts])
    assert torch.equal(positions, texts.packed.position_ids)


@pytest.mark.parametrize(("chunk_size", "passes"), [(None, [1, 1]), (4, [3, 3]), (3, [4, 4])])
def test_ranks_with_unequal_texts_make_as_many_passes(chunk_size, passes):
    found = []
    for negatives in (1, 6):
        documents = torch.arange(3 + negatives)
        batch = PairBatch(
            Texts.of([[1]] * (6 + negatives), chunk_size), *[torch.arange(3)] * 3, "own"
        )
        batch = replace(batch, document_texts=documents).among([4, 9], chunk_size)
        assert batch.documents_of_ranks == (4, 9)
        found.append(len(batch.texts.parts()))
    assert found == passes


def test_ranks_evaluate_equally_often_and_each_text_has_one_place():
    texts = [[1] * length for length in (5, 2, 9, 1, 2)]
    batches = EvaluationTexts(texts, 2)
    shares = [Share(1, 1, rank, 2) for rank in range(2)]
    numbers = [list(batches.numbers(share)) for share in shares]
    assert [len(one) for one in numbers] == [2, 2]
    places = torch.cat([batches[number].places for one in numbers for number in one])
    assert sorted(places.tolist()) == [0, 1, 2, 3, 4]
    last = batches[3]
    assert (len(last.places), last.texts.packed.num_tokens) == (0, 1)
