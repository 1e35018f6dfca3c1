"""Compiled fine-tuning is eager fine-tuning, and one graph serves batches of all lengths.

In a process of its own: the shape checks of this test run would be compiled with the model.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.contrastive.conftest import model_folder, pairs_file
from tests.tasks.glue.conftest import encoder_folder, sentences, write_splits
from tests.tasks.question_answering.conftest import questions
from tests.tasks.token_classification.conftest import tagged

ROOT = Path(__file__).resolve().parents[2]
__all__ = ["encoder_folder", "model_folder", "pairs_file"]

PROGRAM = """
import json, sys
from pathlib import Path
import torch
import torch._dynamo.utils
from lightning.pytorch import Callback
from neobert.config.compose import compose_config
from neobert.tasks import run
from neobert.training.extras import Extras

torch.set_num_threads(1)


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, *arguments):
        self.losses.append(float(outputs["loss"]))


def trained(words):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses = Losses()
    config = compose_config(words)
    run(config, Extras(callbacks=[losses]))
    summary = json.loads((Path(config.trainer.output_dir) / "summary.json").read_text())
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return losses.losses, graphs, summary["derived"]["compiled"]


def compare(name, words):
    eager, none, _ = trained([*words, f"trainer.output_dir=eager/{name}"])
    switch = ["trainer.torch_compile=true", "trainer.torch_compile_backend=aot_eager"]
    compiled, graphs, says = trained([*words, *switch, f"trainer.output_dir=compiled/{name}"])
    assert none == 0 and says and len(eager) == len(compiled) > 0
    difference = max(abs(a - b) / abs(a) for a, b in zip(eager, compiled))
    moved = abs(eager[-1] - eager[0]) / abs(eager[0])
    return {"graphs": graphs, "difference": difference, "moved": moved, "steps": len(eager)}


print(json.dumps({name: compare(name, words) for name, words in json.loads(sys.argv[1]).items()}))
"""
COMMON = (
    "dataset.cache_dir=cache",
    "model.dropout_prob=0",
    "optimizer.lr=3e-3",
    "trainer.mixed_precision=no",
    "trainer.use_cpu=true",
    "trainer.disable_tqdm=true",
    "trainer.per_device_train_batch_size=8",
    "trainer.save_strategy=no",
)
EPOCHS = ("trainer.num_train_epochs=2", "trainer.eval_strategy=epoch")
CONTRASTIVE = (
    "task=contrastive",
    "dataset.name=own",
    "dataset.path=prepared",
    "dataset.max_seq_length=16",
    "dataset.validation_split=0.2",
    "trainer.max_steps=8",
    "trainer.eval_steps=4",
)
CASES: dict[str, tuple[str, ...]] = {
    # The last batch of an epoch is smaller, and an evaluation is between the epochs.
    "glue": (
        "task=glue",
        "glue.task_name=sst2",
        "dataset.path=data/glue",
        "glue.classifier_dropout=0",
        *EPOCHS,
    ),
    "token_classification": (
        "task=token_classification",
        "dataset.path=data/tokens",
        "tokens.dropout=0",
        *EPOCHS,
    ),
    "question_answering": (
        "task=question_answering",
        "dataset.path=data/answers",
        "answers.dropout=0",
        "answers.max_question_length=8",
        "answers.stride=8",
        "answers.max_seq_length=32",
        *EPOCHS,
    ),
    "contrastive": (*CONTRASTIVE, "dataset.pretraining_prob=0"),
    # Chunks are encoded twice, the second time in the backward pass.
    "contrastive-gradcache": (
        *CONTRASTIVE,
        "dataset.pretraining_prob=0",
        "contrastive.micro_batch_size=4",
    ),
    "contrastive-masked-words": (
        *CONTRASTIVE,
        "dataset.pretraining_prob=0.5",
        "contrastive.pretraining_step=mlm",
    ),
}
GRAPHS = {"contrastive-masked-words": 2}
"""A graph for each kind of step."""

Outcome = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def compared(
    encoder_folder: Path,
    model_folder: Path,
    pairs_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcome:
    folder = tmp_path_factory.mktemp("compiled")
    write_splits(folder / "data/glue/sst2", train=sentences(44), validation=sentences(12, seed=5))
    write_splits(folder / "data/tokens", train=tagged(44, 0), validation=tagged(12, 1))
    write_splits(folder / "data/answers", train=questions(44, 0), validation=questions(12, 1))
    start = {
        "glue": [f"glue.pretrained_model_path={encoder_folder}"],
        "contrastive": [
            f"contrastive.pretrained_model_path={model_folder}",
            f"contrastive.sources={{own:{{path:{pairs_file},query:question,positive:answer,"
            "negatives:['wrong[]']}}",
        ],
    }
    default = [f"model.init_from={encoder_folder}"]
    cases = {
        name: [*words, *COMMON, *start.get(name.partition("-")[0], default)]
        for name, words in CASES.items()
    }
    command = [sys.executable, "-c", PROGRAM, json.dumps(cases)]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.proves("trainer.torch_compile")
@pytest.mark.parametrize("case", CASES)
def test_it_is_eager_fine_tuning_in_one_graph(compared: Outcome, case: str) -> None:
    found = compared[case]
    assert found["graphs"] == GRAPHS.get(case, 1)
    assert found["difference"] < 1e-3
    assert found["moved"] > 10 * found["difference"]
