import pytest
import torch
from torch.testing import assert_close

from neobert.batch import PackedBatch, bounds_of, positions_within
from neobert.model.encoder import Encoder

DOCUMENTS = [[2, 5, 7, 3], [2, 4, 9, 8, 6, 3], [2]]


def packed_with_slack() -> PackedBatch:
    """Two rows of 8; the first ends in a document of two pad ids."""
    lengths = torch.tensor([4, 2, 2, 8])
    ids = torch.randint(1, 11, (16,))
    ids[6:8] = 0
    return PackedBatch(ids, positions_within(lengths), bounds_of(lengths), 8, 14, 8)


def gradients(encoder: Encoder, batch: PackedBatch) -> dict[str, torch.Tensor]:
    encoder.zero_grad()
    torch.manual_seed(5)  # dropout
    encoder(batch).square().sum().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters()}


@pytest.mark.proves("trainer.gradient_checkpointing")
@pytest.mark.parametrize("changes", [{}, {"dropout_prob": 0.3}, {"rope": False}])
def test_checkpointing_changes_no_gradient(tiny, changes) -> None:
    encoder = Encoder(tiny(**changes), 11, 0).train()
    kept = gradients(encoder, packed_with_slack())
    torch.manual_seed(0)
    batch = packed_with_slack()
    kept = gradients(encoder, batch)
    encoder.gradient_checkpointing = True
    assert_close(gradients(encoder, batch), kept)


@pytest.mark.proves("trainer.gradient_checkpointing")
@pytest.mark.parametrize(("checkpointing", "runs"), [(False, 1), (True, 2)])
def test_checkpointing_runs_each_block_again_in_the_backward_pass(
    tiny, checkpointing: bool, runs: int
) -> None:
    encoder = Encoder(tiny(), 11, 0).train()
    encoder.gradient_checkpointing = checkpointing
    calls: list[int] = []
    for number, block in enumerate(encoder.transformer_encoder):
        block.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    gradients(encoder, packed_with_slack())
    assert sorted(calls) == sorted(list(range(len(encoder.transformer_encoder))) * runs)


@pytest.mark.proves("model.dropout_prob")
def test_dropout_acts_in_training_only(tiny) -> None:
    encoder = Encoder(tiny(dropout_prob=0.5), 11, 0)
    batch = PackedBatch.from_documents(DOCUMENTS)
    trained = [encoder.train()(batch) for _ in range(2)]
    evaluated = [encoder.eval()(batch) for _ in range(2)]
    assert not torch.equal(*trained)
    assert torch.equal(*evaluated)


def test_dropout_of_everything_leaves_the_embedding(tiny) -> None:
    """Both halves of a block are dropped before they are added."""
    encoder = Encoder(tiny(dropout_prob=1.0), 11, 0).train()
    batch = PackedBatch.from_documents(DOCUMENTS)
    assert_close(encoder(batch), encoder.layer_norm(encoder.encoder(batch.input_ids)))


def test_the_recorded_logits_are_those_of_the_layer(tiny) -> None:
    encoder = Encoder(tiny(rope=False), 11, 0)
    layer = encoder.attention_layers()[0]
    layer.record_max_logits = True
    batch = packed_with_slack()
    encoder(batch)

    rows = (batch.position_ids + 1).where(batch.input_ids != 0, 0)
    x = encoder.encoder(batch.input_ids) + encoder.positional_embedding(rows)
    fused = layer.qkv(layer.attention_norm(x)).view(16, 2, 24)
    q, k = fused[..., :8], fused[..., 8:16]
    logits = torch.einsum("qhd,khd->hqk", q, k) / 8**0.5
    largest = torch.full((2,), -torch.inf)
    for start, end in [(0, 4), (4, 6), (8, 16)]:  # without the pad document
        largest = largest.maximum(logits[:, start:end, start:end].amax((1, 2)))
    assert_close(layer.max_logits, largest)


def test_records_grow_until_they_are_reset(tiny) -> None:
    encoder = Encoder(tiny(), 11, 0)
    first, second = (PackedBatch.from_documents([document]) for document in DOCUMENTS[:2])
    layers = encoder.attention_layers()

    def record(*batches: PackedBatch) -> torch.Tensor:
        for layer in layers:
            layer.record_max_logits = True
            layer.reset_max_logits()
        for batch in batches:
            encoder(batch)
        return torch.stack([layer.max_logits for layer in layers])

    assert_close(record(first, second), record(first).maximum(record(second)))
    recorded = record(first)
    for layer in layers:
        layer.record_max_logits = False
    encoder(second)
    assert_close(torch.stack([layer.max_logits for layer in layers]), recorded)


def test_records_are_no_part_of_the_weights(tiny) -> None:
    assert not any("max_logits" in name for name in Encoder(tiny(), 11, 0).state_dict())


def test_recording_under_checkpointing_is_the_same(tiny) -> None:
    encoder = Encoder(tiny(), 11, 0).train()
    batch = packed_with_slack()
    records = []
    for encoder.gradient_checkpointing in (False, True):
        for layer in encoder.attention_layers():
            layer.record_max_logits = True
            layer.reset_max_logits()
        encoder(batch).sum().backward()
        records.append([layer.max_logits.clone() for layer in encoder.attention_layers()])
    assert_close(*records)


def test_a_document_longer_than_the_learned_table_is_an_error(tiny) -> None:
    encoder = Encoder(tiny(rope=False, max_position_embeddings=5), 11, 0)
    with pytest.raises(ValueError, match=r"max_position_embeddings=5.*max_seq_length"):
        encoder(PackedBatch.from_documents(DOCUMENTS))
    # Rotary positions have no table and no end.
    Encoder(tiny(max_position_embeddings=5), 11, 0)(PackedBatch.from_documents(DOCUMENTS))


def test_rotary_theta_turns_distant_tokens_differently(tiny) -> None:
    batch = PackedBatch.from_documents(DOCUMENTS)
    near, far = Encoder(tiny(), 11, 0), Encoder(tiny(rope_theta=10.0), 11, 0)
    far.load_state_dict(near.state_dict())
    assert not torch.allclose(near(batch), far(batch))


def test_half_precision_weights_run(tiny) -> None:
    encoder = Encoder(tiny(), 11, 0).eval()
    batch = PackedBatch.from_documents(DOCUMENTS)
    full = encoder(batch)
    # Outputs of the final norm are around 1, and bf16 keeps 8 bits.
    assert_close(encoder.bfloat16()(batch).float(), full, atol=0.05, rtol=0)


def test_learned_positions_bound_documents_and_not_packed_rows(tiny) -> None:
    config = tiny(rope=False, max_position_embeddings=6)
    encoder = Encoder(config, vocab_size=11, pad_token_id=0).eval()
    short, filler = torch.tensor([5, 4, 3, 7, 2, 9]), torch.zeros(12, dtype=torch.int64)
    packed = PackedBatch.from_lengths(
        torch.cat([short, short[:4], filler]), torch.tensor([6, 4, 12]), row_length=22
    )
    alone = encoder(PackedBatch.from_documents([short.tolist(), short[:4].tolist()]))
    torch.testing.assert_close(encoder(packed)[:10], alone)
    long = PackedBatch.from_lengths(torch.ones(7).long(), torch.tensor([7]), row_length=7)
    with pytest.raises(ValueError, match=r"a document of 7 tokens is longer than .*=6"):
        encoder(long)
