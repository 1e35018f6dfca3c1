import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from neobert.batch import PackedBatch
from neobert.losses.mlm import full_logits_loss
from neobert.model.flops import training_flops
from neobert.model.heads import MaskedLM


@pytest.mark.parametrize("changes", [{}, {"hidden_act": "gelu"}, {"ngpt": True}])
@pytest.mark.parametrize("states", [11, 4])
def test_the_count_is_that_of_pytorchs_counter(tiny, changes, states: int) -> None:
    model = MaskedLM(tiny(**changes), 11, 0)
    batch = PackedBatch.from_documents([[1] * length for length in (3, 8)])
    rows = torch.arange(states)
    with FlopCounterMode(display=False) as counter:
        # Not linear_cross_entropy, whose products the counter does not see.
        full_logits_loss(model.hidden(batch, rows), model.decoder_weight, rows, rows).sum.backward()
    flops = training_flops(model.model)
    counted = counter.get_total_flops()
    # PyTorch's counter does not see into the operator of packed attention.
    assert counted == flops.of(tokens=11.0, pairs=0.0, targets=float(states), states=float(states))


def test_attention_costs_twelve_widths_per_pair_and_layer(tiny) -> None:
    model = MaskedLM(tiny(hidden_size=32, num_hidden_layers=3), 11, 0)
    length, heads, width = 7, 2, 16
    q = torch.randn(heads, length, width, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        (torch.softmax(q @ q.mT, -1) @ q).sum().backward()
    assert 3 * counter.get_total_flops() == training_flops(model.model).per_pair * length**2
