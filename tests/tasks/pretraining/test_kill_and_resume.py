"""The proof of exact resume: a run that is killed again and again ends as the undisturbed one.

Each run is a process of its own, forked from a server that has the imports done, and is killed with
SIGKILL at random moments and while a checkpoint is being written.
"""

import multiprocessing
import random
import signal
import sys
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

STEPS = 12
TINY = [
    "model.hidden_size=32",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=2",
    "model.intermediate_size=48",
    "model.dropout_prob=0.1",
    "dataset.max_seq_length=32",
    "trainer.per_device_train_batch_size=2",
    "trainer.gradient_accumulation_steps=2",
    f"trainer.max_steps={STEPS}",
    "trainer.save_steps=2",
    "trainer.save_total_limit=2",
    "trainer.eval_strategy=no",
    "trainer.logging_steps=1",
    "trainer.mixed_precision=no",
    "trainer.log_batch_digests=true",
    "trainer.disable_tqdm=true",
    "scheduler.warmup_steps=2",
    "tokenizer.train_vocab_size=512",
]
WORDS = [
    "the",
    "a",
    "river",
    "runs",
    "north",
    "of",
    "mountain",
    "border",
    "which",
    "export",
    "rice",
    "oil",
    "and",
    "coal",
    "to",
    "island",
]


def train(overrides: list[str]) -> None:
    """What the command line does."""
    from neobert.train import main

    torch.set_num_threads(1)
    sys.argv = ["train", *overrides]
    main()


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["neobert.train", "neobert.tasks.pretraining.run"])
    return context


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for shard in range(2):
        lines = [
            " ".join(draw.choices(WORDS, k=draw.randint(3, 60))).capitalize() + "."
            for _ in range(200)
        ]
        (folder / f"part-{shard}.txt").write_text("\n".join(lines) + "\n")
    return folder


def start(server: ForkServerContext, overrides: list[str]) -> ForkServerProcess:
    process = server.Process(target=train, args=(overrides,))
    process.start()
    return process


def run_to_end(server: ForkServerContext, overrides: list[str]) -> None:
    process = start(server, overrides)
    process.join(timeout=300)
    assert process.exitcode == 0


def kill_when_saving(process: ForkServerProcess, output: Path, deadline: float) -> None:
    """SIGKILL as soon as an unfinished checkpoint is seen on disk, or at ``deadline``."""
    while time.monotonic() < deadline and process.is_alive():
        if any((output / "checkpoints").glob(".incomplete-*")):
            break
        time.sleep(0.0005)
    process.kill()
    process.join()


def kill_again_and_again(
    server: ForkServerContext, overrides: list[str], output: Path, draw: random.Random
) -> int:
    """Kill the run a few times, then let it end; return how often it was really killed."""
    kills = 0
    resume = "trainer.resume_from_checkpoint=latest"
    for attempt in range(6):
        process = start(server, [*overrides, resume])
        if attempt % 2:
            kill_when_saving(process, output, time.monotonic() + 60)
        else:
            _wait_for_first_step(process, output, draw)
            process.kill()
            process.join()
        kills += process.exitcode == -signal.SIGKILL
    run_to_end(server, [*overrides, resume])
    return kills


def _wait_for_first_step(process: ForkServerProcess, output: Path, draw: random.Random) -> None:
    """Let a few more steps pass than the run had at its start, then a random moment more."""
    digests = output / "batches-0.csv"

    def lines() -> int:
        return len(digests.read_text().splitlines()) if digests.exists() else 0

    limit, before = time.monotonic() + 60, lines()
    while process.is_alive() and lines() <= before and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(draw.random() * 0.5)


def assert_same_end(undisturbed: Path, killed: Path) -> None:
    one, two = (folder / "checkpoints" / str(STEPS) for folder in (undisturbed, killed))
    weights = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    states = [
        torch.load(folder / "trainer_state.pt", weights_only=True)["optimizer_states"]
        for folder in (one, two)
    ]
    assert_equal_states(*states)
    for digests in undisturbed.glob("batches-*.csv"):
        assert digests.read_text() == (killed / digests.name).read_text()
        assert len(digests.read_text().splitlines()) == 1 + 2 * STEPS


def assert_equal_states(one: object, two: object) -> None:
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal_states(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert_equal_states(left, right)
    else:
        assert one == two


CASES = {
    "packed, muonclip, 0 workers": (
        "optimizer=muonclip",
        "datacollator.pack_sequences=true",
        "dataset.num_workers=0",
        "dataset.streaming=false",
    ),
    "unpacked, adamw, 2 workers": (
        "optimizer=adamw",
        "datacollator.pack_sequences=false",
        "dataset.num_workers=2",
        "dataset.streaming=false",
    ),
    "pre-tokenised, packed, adamw, 2 workers": (
        "optimizer=adamw",
        "datacollator.pack_sequences=true",
        "dataset.num_workers=2",
        "dataset.streaming=false",
        "dataset.pre_tokenize=true",
    ),
    "streaming, packed, muonclip, 2 workers": (
        "optimizer=muonclip",
        "datacollator.pack_sequences=true",
        "dataset.num_workers=2",
        "dataset.streaming=true",
    ),
    "streaming, unpacked, adamw, 0 workers": (
        "optimizer=adamw",
        "datacollator.pack_sequences=false",
        "dataset.num_workers=0",
        "dataset.streaming=true",
    ),
}


@pytest.mark.slow
@pytest.mark.proves("trainer.resume_from_checkpoint", "trainer.log_batch_digests")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_killed_run_ends_as_the_undisturbed_one(
    server: ForkServerContext, corpus: Path, tmp_path: Path, case: tuple[str, ...]
) -> None:
    common = [
        "dataset=local",
        f"dataset.path={corpus}",
        f"dataset.cache_dir={tmp_path / 'cache'}",
        f"dataset.pre_tokenize_output={tmp_path / 'tokens'}",
        *case,
        *TINY,
    ]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run_to_end(server, [*common, f"trainer.output_dir={undisturbed}"])
    kills = kill_again_and_again(
        server, [*common, f"trainer.output_dir={killed}"], killed, random.Random(str(case))
    )
    assert kills >= 3
    assert_same_end(undisturbed, killed)
