"""Compiled training is eager training, and batches after the first compile nothing.

In processes of their own: the shape checks of this test run would be compiled with the model.
"""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import torch
import torch._dynamo.utils
from neobert.batch import PackedBatch, bounds_of, positions_within
from neobert.config.model import ModelConfig
from neobert.losses.mlm import masked_lm_loss
from neobert.model.compile import compile_encoder
from neobert.model.heads import build_masked_lm

backend, packed, settings = sys.argv[1], sys.argv[2] == "packed", json.loads(sys.argv[3])
checkpointing = settings.pop("checkpointing", False)
record = settings.pop("record", False)
config = ModelConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, **settings
)
model = build_masked_lm(config, 40, 0).train()
model.model.gradient_checkpointing = checkpointing
layers = model.model.attention_layers()
for layer in layers:
    layer.record_max_logits = record


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths, row = [], 32
    for _ in range(3 if packed else 3 + seed % 3):
        left = row
        while left:
            length = min(left, int(torch.randint(1, 20, (), generator=generator)))
            lengths.append(length)
            left = left - length if packed else 0
    lengths = torch.tensor(lengths)
    total = int(lengths.sum())
    ids = torch.randint(1, 40, (total,), generator=generator)
    row_length = row if packed else None
    return PackedBatch(ids, positions_within(lengths), bounds_of(lengths), row, total, row_length)


def step(inputs):
    model.zero_grad()
    for layer in layers:
        layer.reset_max_logits()
    positions = torch.arange(0, len(inputs.input_ids), 5)
    loss = masked_lm_loss(model.hidden(inputs), model.decoder_weight, positions, positions % 40)
    loss.sum.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    return loss.sum.detach(), gradients, torch.stack([layer.max_logits for layer in layers])


batches = [batch(seed) for seed in range(5)]
eager = [step(inputs) for inputs in batches]
compile_encoder(model.model, backend)
compiled = [step(inputs) for inputs in batches]
difference = max(
    ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).nan_to_num().item()
    for a, b in zip(compiled, eager, strict=True) for ours, theirs in zip(a, b, strict=True)
)
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
print(json.dumps({"difference": difference, "graphs": graphs}))
"""


def compiled_run(backend: str, kind: str, **settings: object) -> dict[str, float]:
    """Train five batches eagerly and compiled; the largest relative difference, and the graphs."""
    command = [sys.executable, "-c", PROGRAM, backend, kind, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("backend", "kind", "settings"),
    [
        ("eager", "packed", {}),
        ("aot_eager", "packed", {}),
        ("aot_eager", "unpacked", {}),
        ("aot_eager", "packed", {"checkpointing": True, "record": True}),
        ("aot_eager", "packed", {"rope": False, "rms_norm": False, "hidden_act": "gelu"}),
    ],
)
def test_one_graph_serves_every_batch(backend, kind, settings) -> None:
    found = compiled_run(backend, kind, **settings)
    assert found["graphs"] == 1
    assert found["difference"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["packed", "unpacked"])
def test_one_inductor_graph_serves_every_batch(kind) -> None:
    found = compiled_run("inductor", kind, checkpointing=kind == "packed", record=True)
    assert found["graphs"] == 1
    # Fused kernels add in another order.
    assert found["difference"] < 1e-4
