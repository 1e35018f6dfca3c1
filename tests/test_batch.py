import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from neobert.batch import MaskedBatch, PackedBatch, PaddedBatch
from neobert.tasks.contrastive.batches import Texts, TwiceBatch
from neobert.tasks.glue.labelled_batch import LabelledBatch


@pytest.mark.proves("dataset.pin_memory")
def test_a_loader_pins_every_tensor_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch's loaders do it; without a GPU there is no page-locked memory to look for."""
    inputs = PackedBatch.from_documents([[2, 5, 3], [2, 3]])
    batch = MaskedBatch(inputs, torch.tensor([1]), torch.tensor([7]), num_targets=1)
    pinned: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", note)
    found = pin_memory(batch)
    tensors = [inputs.input_ids, inputs.position_ids, inputs.cu_seqlens]
    tensors += [batch.positions, batch.labels]
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in tensors}
    assert len(pinned) == len(tensors)
    assert found.inputs.input_ids.tolist() == [2, 5, 3, 2, 3]
    assert found.inputs.input_ids is not inputs.input_ids
    assert found.num_targets == 1


def test_batches_of_every_task_move_whole() -> None:
    row = torch.tensor([[2, 5, 3]])
    padded = PaddedBatch(row, torch.ones_like(row), None, num_tokens=3)
    labelled = LabelledBatch(padded, torch.tensor([1]), torch.tensor([0]), num_targets_in_step=1)
    moved = labelled.to("meta")
    assert moved.inputs.token_type_ids is None
    assert moved.num_targets_in_step == 1
    tensors = [moved.inputs.input_ids, moved.inputs.attention_mask, moved.labels, moved.rows]
    twice = TwiceBatch(Texts.of([[2, 5, 3], [2, 3]]), torch.tensor([7, 8])).to("meta")
    packed = twice.texts.packed
    tensors += [packed.input_ids, packed.position_ids, packed.cu_seqlens]
    tensors += [twice.texts.places, twice.numbers]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
