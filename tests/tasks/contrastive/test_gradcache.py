"""GradCache against the direct computation: loss and every gradient."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from neobert.batch import PackedBatch
from neobert.losses.contrastive import Anchors, Candidates, Similarity, simcse_loss
from neobert.model.encoder import Encoder
from neobert.ops.pooling import pool
from neobert.tasks.contrastive.batches import Texts
from neobert.tasks.contrastive.gradcache import encode_texts
from neobert.training.callbacks.throughput import Throughput
from neobert.training.callbacks.train_metrics import TrainMetrics
from tests.tasks.contrastive.conftest import small_config


def texts(count: int = 12) -> list[list[int]]:
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 12, (count,), generator=draw).tolist()
    return [torch.randint(5, 60, (n,), generator=draw).tolist() for n in lengths]


def loss_of(encoder: Encoder, chunk_size: int | None, pooling: str = "avg"):
    vectors = encode_texts(encoder, Texts.of(texts(), chunk_size), pooling)
    numbers = torch.arange(12)
    anchors = Anchors(vectors[:4], -1 - numbers[:4], -1 - numbers[:4], numbers[:4])
    candidates = Candidates(vectors[4:], numbers[:8], -1 - numbers[:8], numbers[:8] > 3)
    return simcse_loss(anchors, candidates, Similarity(0.2)).mean


@pytest.mark.proves("contrastive.micro_batch_size")
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("chunk_size", [1, 5, 12])
def test_loss_and_gradients_are_those_of_the_whole_batch_at_once(dropout, chunk_size):
    encoder = Encoder(small_config(dropout_prob=dropout), 128, 0).double().train()
    results = []
    for size in (None, chunk_size):
        if dropout and size is not None and size < 12:
            continue  # other chunks draw other dropout; below
        torch.manual_seed(5)
        encoder.zero_grad()
        loss = loss_of(encoder, size)
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in encoder.parameters()]))
    for loss, gradients in results[1:]:
        assert_close(loss, results[0][0])
        for found, wanted in zip(gradients, results[0][1], strict=True):
            assert_close(found, wanted)


def test_a_spare_pass_changes_neither_loss_nor_gradients():
    encoder = Encoder(small_config(), 128, 0).double().train()
    results = []
    for spare in (0, 2):
        encoder.zero_grad()
        given = replace(Texts.of(texts(), 5), spare_passes=spare)
        vectors = encode_texts(encoder, given, "avg")
        vectors.square().sum().backward()
        results.append([vectors.detach(), *(p.grad.clone() for p in encoder.parameters())])
    for without, with_spare in zip(*results, strict=True):
        assert_close(with_spare, without)


def test_under_dropout_the_second_pass_draws_what_the_first_drew():
    encoder = Encoder(small_config(dropout_prob=0.3), 128, 0).double().train()
    torch.manual_seed(5)
    loss_of(encoder, 4).backward()
    found = [parameter.grad.clone() for parameter in encoder.parameters()]
    # The same chunks without a checkpoint, in the same order of draws.
    encoder.zero_grad()
    torch.manual_seed(5)
    given = Texts.of(texts(), 4)
    parts = [pool(encoder(part), part.cu_seqlens, "avg") for part in given.parts()]
    vectors, numbers = torch.cat(parts)[given.places], torch.arange(12)
    anchors = Anchors(vectors[:4], -1 - numbers[:4], -1 - numbers[:4], numbers[:4])
    candidates = Candidates(vectors[4:], numbers[:8], -1 - numbers[:8], numbers[:8] > 3)
    simcse_loss(anchors, candidates, Similarity(0.2)).mean.backward()
    for parameter, gradient in zip(encoder.parameters(), found, strict=True):
        assert_close(parameter.grad, gradient)


@pytest.mark.proves("contrastive.pooling")
@pytest.mark.parametrize("pooling", ["avg", "cls", "max"])
def test_each_text_gets_the_vector_it_has_alone(pooling):
    encoder = Encoder(small_config(), 128, 0).double().eval()
    given = texts()
    with torch.no_grad():
        together = encode_texts(encoder, Texts.of(given, 5), pooling)
        for text, vector in zip(given, together, strict=True):
            alone = PackedBatch.from_documents([text])
            assert_close(pool(encoder(alone), alone.cu_seqlens, pooling)[0], vector)


def test_encoding_in_chunks_keeps_almost_nothing_for_the_backward_pass():
    encoder = Encoder(small_config(), 128, 0).train()
    most = []
    for size in (None, 2):
        kept: dict[int, int] = {}

        def pack(tensor, kept=kept):
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss_of(encoder, size).backward()
        most.append(sum(kept.values()))
    assert most[1] < most[0] / 5


def test_the_second_pass_counts_as_no_further_work():
    encoder = Encoder(small_config(), 128, 0).train()
    throughput = Throughput(TrainMetrics(1))
    encoder.register_forward_pre_hook(throughput._count)
    loss_of(encoder, 4).backward()
    assert throughput._tokens == sum(map(len, texts()))
