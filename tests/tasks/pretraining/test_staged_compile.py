"""``torch.compile`` over the borders of stages, counted.

In a process of its own: the shape checks of this test run would be compiled with the model.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = """
import json, sys
import torch
from lightning.pytorch import Callback
from neobert.config.compose import compose_config
from neobert.tasks import run
from neobert.training.extras import Extras

torch.set_num_threads(1)
graphs = []

class Count(Callback):
    def on_train_batch_end(self, *arguments):
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

run(compose_config(sys.argv[1:]), Extras(callbacks=[Count()]))
print(json.dumps(graphs))
"""
STAGES = (
    "[{until: 4, max_seq_length: 16},"
    " {until: 8, max_seq_length: 16, gradient_accumulation_steps: 2, rope_theta: 50000,"
    " mlm_probability: 0.3},"
    " {until: 11, max_seq_length: 32, gradient_accumulation_steps: 1,"
    " mixture: {one: 0.2, two: 0.8}},"
    " {max_seq_length: 16}]"
)


@pytest.mark.proves("stages")
@pytest.mark.parametrize(
    "optimizer",
    [
        ("optimizer=adamw",),
        # Measures attention logits in every third step, and so before and after each border.
        ("optimizer=muonclip", "optimizer.muon_config.clipping_interval=3"),
    ],
    ids=lambda settings: settings[0],
)
def test_a_stage_compiles_once_if_its_row_length_is_new_and_else_never(
    tiny_corpus: Path, tmp_path: Path, optimizer: tuple[str, ...]
) -> None:
    corpus = tiny_corpus / "corpus.txt"
    settings = [
        f"dataset.mixture={{one: {{path: {corpus}, weight: 0.5}}, two: {{path: {corpus},"
        " weight: 0.5}}",
        f"dataset.cache_dir={tiny_corpus / 'cache'}",
        "dataset=local",
        "dataset.num_workers=0",
        "datacollator.pack_sequences=true",
        "tokenizer.train_vocab_size=128",
        "model.hidden_size=16",
        "model.num_hidden_layers=1",
        "model.num_attention_heads=2",
        "model.intermediate_size=24",
        "model.max_position_embeddings=64",
        "dataset.max_seq_length=16",
        *optimizer,
        "trainer.per_device_train_batch_size=2",
        "trainer.max_steps=13",
        "trainer.eval_strategy=no",
        "trainer.save_steps=100",
        "trainer.mixed_precision=no",
        "trainer.torch_compile=true",
        "trainer.torch_compile_backend=eager",
        f"stages={STAGES}",
        f"trainer.output_dir={tmp_path / 'run'}",
    ]
    command = [sys.executable, "-c", COUNT, *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    graphs = json.loads(done.stdout.splitlines()[-1])
    # 4 + 2 · 4 micro-batches, then 3 of longer rows, then 2
    assert graphs == [1] * 12 + [2] * 5
