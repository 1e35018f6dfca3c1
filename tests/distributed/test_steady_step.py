"""No step of any task reads a value back from the device: on two ranks, and on a GPU."""

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from tests.tasks.conftest import watching
from tests.tasks.contrastive.conftest import pairs, write_jsonl, write_model

QUIET = (
    "trainer.max_steps=4",
    "trainer.gradient_accumulation_steps=2",
    "trainer.per_device_train_batch_size=4",
    "trainer.gradient_clipping=1.0",
    "trainer.log_grad_norm=true",
    "trainer.logging_steps=100",
    "trainer.eval_strategy=no",
    "trainer.eval_on_start=false",
    "trainer.save_strategy=no",
    "trainer.mixed_precision=no",
    "trainer.disable_tqdm=true",
    "dataset.num_workers=0",
)
PRETRAINING = (
    "dataset=local",
    "dataset.max_seq_length=32",
    "dataset.validation_split=null",
    "tokenizer.train_vocab_size=64",
    "model.hidden_size=16",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "model.intermediate_size=24",
)
CASES = {
    "adamw": (*PRETRAINING, "optimizer=adamw", "datacollator.pack_sequences=true"),
    "muonclip": (*PRETRAINING, "optimizer=muonclip", "optimizer.muon_config.clipping_interval=2"),
    "glue": ("task=glue", "glue.task_name=sst2", "glue.max_seq_length=16"),
    "contrastive": (
        "task=contrastive",
        "dataset.name=own",
        "dataset.max_seq_length=16",
        "dataset.pretraining_prob=0",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, sentences with labels, pairs, and a model to fine-tune."""
    folder = tmp_path_factory.mktemp("steady")
    rows = pairs(96)
    (folder / "text.txt").write_text(
        "".join(f"{row['question']} {row['answer']}\n" for row in rows)
    )
    write_jsonl(folder / "pairs.jsonl", rows)
    labelled = [{"sentence": row["question"], "label": n % 2} for n, row in enumerate(rows)]
    for split in ("train", "validation"):
        (folder / "sst2").mkdir(exist_ok=True)
        write_jsonl(folder / "sst2" / f"{split}.jsonl", labelled)
    write_model(folder / "model")
    return folder


def settings(name: str, data: Path, output: Path) -> list[str]:
    """The command line of a case."""
    model, source = data / "model", f"{{own:{{path:{data / 'pairs.jsonl'},query:question,"
    own = {
        "glue": [f"dataset.path={data}", f"glue.pretrained_model_path={model}"],
        "contrastive": [
            f"dataset.path={output / 'prepared'}",
            f"contrastive.sources={source}positive:answer,negatives:['wrong[]']}}}}",
            f"contrastive.pretrained_model_path={model}",
        ],
    }.get(name, [f"dataset.path={data / 'text.txt'}"])
    folders = [f"dataset.cache_dir={data / 'cache'}", f"trainer.output_dir={output}"]
    return [*CASES[name], *own, *folders, *QUIET]


def reads(*words: str) -> list[str]:
    """Where a run of these settings reads values between its first steps and its last ones."""
    from neobert.config.compose import compose_config
    from neobert.tasks import run

    with watching() as watch:
        run(compose_config(list(words)))
    return watch.reads.places


def rank_main(rank: int, port: int, strategy: str, data: Path, folder: Path) -> None:
    os.environ.update(
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    rank_zero_only.rank = rank  # Lightning was imported before the environment said so
    torch.set_num_threads(1)
    ranks = ("trainer.use_cpu=true", "trainer.devices=2", f"trainer.strategy={strategy}")
    for name in CASES:
        places = reads(*settings(name, data, folder / name), *ranks)
        (folder / f"{name}-{rank}").write_text("\n".join(places))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks(strategy: str, data: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (port, strategy, data, tmp_path)
    ranks = [context.Process(target=rank_main, args=(rank, *arguments)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(600)
        process.kill()
    found = {
        f"{name}-{rank}": (tmp_path / f"{name}-{rank}").read_text()
        for name in CASES
        for rank in (0, 1)
    }
    assert {case: places for case, places in found.items() if places} == {}


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_is_never_waited_for(name: str, data: Path, tmp_path: Path) -> None:
    """Within the watched steps ``torch.cuda.set_sync_debug_mode`` makes every wait an error."""
    assert reads(*settings(name, data, tmp_path)) == []
