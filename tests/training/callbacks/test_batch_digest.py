from dataclasses import replace

from neobert.batch import PackedBatch
from neobert.training.callbacks.batch_digest import batch_digest


def batch() -> PackedBatch:
    return PackedBatch.from_documents([[1, 2, 3], [4, 5]])


def test_equal_batches_have_equal_digests() -> None:
    assert batch_digest(batch()) == batch_digest(batch())


def test_every_field_counts() -> None:
    one = batch()
    changed = [
        replace(one, input_ids=one.input_ids + 1),
        replace(one, position_ids=one.position_ids.to("cpu").int()),
        replace(one, cu_seqlens=one.cu_seqlens.flip(0)),
        replace(one, max_seqlen=4),
        replace(one, row_length=5),
    ]
    assert len({batch_digest(one), *(batch_digest(other) for other in changed)}) == 6
