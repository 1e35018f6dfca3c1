"""Every way to train on a batch is the same model: its loss and the gradient of every weight.

In fp64, where only a mistake is visible, and in bf16. ``test_compile.py`` has the compiled ways,
``tests/ops`` the kernels one by one.
"""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import neobert.model.encoder
from neobert.batch import IGNORE, PackedBatch, bounds_of, positions_within
from neobert.losses.mlm import full_logits_loss, masked_lm_loss
from neobert.model.heads import MaskedLM
from neobert.ops.kernels import AttentionChoice

WORDS = 23
ROWS = [[5, 2], [8], [1, 4, 3], [1]]
"""Lengths of the documents of each row of 8; what is left of it is padding."""

TARGETS = [0, 3, 6, 7, 11, 15, 19, 23]
"""Masked tokens, counted without padding."""


@dataclass(frozen=True)
class Way:
    packed: bool = True
    kernel: str = "documents"
    full_logits: bool = False
    checkpointing: bool = False


WAYS = {
    "packed": Way(),
    "unpacked": Way(packed=False),
    "SDPA": Way(kernel="dense"),
    "SDPA, unpacked": Way(packed=False, kernel="dense"),
    "full logits": Way(full_logits=True),
    "checkpointed": Way(checkpointing=True),
}
MODELS = {
    "default": {},
    "tied": {"tie_word_embeddings": True},
    "learned positions, LayerNorm, GELU": {"rope": False, "rms_norm": False, "hidden_act": "gelu"},
    "nGPT": {"ngpt": True, "base_scale": 0.25},
}


def batch_of(packed: bool) -> tuple[PackedBatch, Tensor]:
    """The documents, and where their tokens stand."""
    generator = torch.Generator().manual_seed(1)
    lengths, ids, places = [], [], []
    for row in ROWS:
        slack = [8 - sum(row)] if packed and sum(row) < 8 else []
        for length in row:
            places += range(len(ids), len(ids) + length)
            ids += torch.randint(1, WORDS, (length,), generator=generator).tolist()
        ids += [0] * sum(slack)
        lengths += [*row, *slack]
    size = torch.tensor(lengths)
    batch = PackedBatch(torch.tensor(ids), positions_within(size), bounds_of(size), 8, len(places))
    if packed:
        batch = replace(batch, row_length=8)
    return batch, torch.tensor(places)


def train(model: MaskedLM, way: Way, monkeypatch, bf16: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradient of each weight."""
    choice = AttentionChoice(way.kernel, "")
    monkeypatch.setattr(neobert.model.encoder, "resolve_attention", lambda *_: choice)
    model.model.gradient_checkpointing = way.checkpointing
    batch, places = batch_of(way.packed)
    positions = torch.cat((places[TARGETS], torch.zeros(2, dtype=torch.int64)))  # two of filler
    labels = torch.tensor([*(target % (WORDS - 1) + 1 for target in TARGETS), IGNORE, IGNORE])
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        weight = model.decoder_weight
        if way.full_logits:
            found = full_logits_loss(model.hidden(batch), weight, positions, labels)
        else:
            found = masked_lm_loss(model.hidden(batch, positions), weight, labels)
    found.sum.backward()
    return found.sum.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


# bf16 keeps 8 bits, so each number is off by up to 2^-9 of its size; with weights of up to one
# half, two blocks there and back make up to 0.05 of a gradient's length of it. In fp64 ways
# differ by the order of their sums.
@pytest.mark.parametrize("bf16", [False, True], ids=["fp64", "bf16"])
@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_every_way_has_the_same_loss_and_gradients(tiny, fill, monkeypatch, changes, bf16) -> None:
    model = fill(MaskedLM(tiny(**changes), WORDS, 0)).train()
    exact = copy.deepcopy(model).double()
    expected, known = train(exact, Way(), monkeypatch, bf16=False)
    for name, way in WAYS.items():
        loss, gradients = train(model if bf16 else exact, way, monkeypatch, bf16)
        assert_close(loss.double(), expected, rtol=0.02 if bf16 else 1e-12, atol=0)
        for weight, gradient in gradients.items():
            length = known[weight].norm()
            assert length > 0
            difference = (gradient - known[weight]).norm() / length
            assert difference < (0.1 if bf16 else 1e-12), (name, weight)
