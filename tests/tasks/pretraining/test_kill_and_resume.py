"""The proof of exact resume: a run that is killed again and again ends as the undisturbed one.

Each run is a process of its own, forked from a server that has the imports done, and is killed with
SIGKILL at random moments and while a checkpoint is being written; once it is asked to stop by
SIGTERM or SIGINT, saves and exits with 75. CI runs the short form; the long one is

    NEOBERT_KILLS=20 pytest tests/tasks/pretraining/test_kill_and_resume.py
"""

import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

log = logging.getLogger(__name__)

LONG = "NEOBERT_KILLS" in os.environ
KILLS = int(os.environ.get("NEOBERT_KILLS", "2"))
STEPS = max(30, 5 * KILLS)
WAIT = 300.0
TINY = [
    "dataset=local",
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
RESUME = "trainer.resume_from_checkpoint=latest"
WORDS = "the a river runs north of mountain border which export rice oil and coal to island".split()  # noqa: SIM905


@dataclass(frozen=True)
class Case:
    """A form of training, and the signal that asks it to stop."""

    settings: tuple[str, ...]
    stop: signal.Signals = signal.SIGTERM
    ranks: int = 1


CURRICULUM = (
    "optimizer=muonclip",
    "datacollator.pack_sequences=true",
    "datacollator.mlm_schedule={0%: 0.4, 100%: 0.1}",
    "dataset.mixture={one: {path: CORPUS/part-0.txt, weight: 0.6},"
    " two: {path: CORPUS/part-1.txt, weight: 0.3}, all: {path: CORPUS, weight: 0.1}}",
    "dataset.crop_min_length=4",
    "dataset.shuffle_buffer_size=40",
    "stages=[{until: 50%}, {max_seq_length: 48, gradient_accumulation_steps: 1, rope_theta: 50000,"
    " mixture: {one: 0.2, all: 0.8}}]",
    "model.max_position_embeddings=64",
)
"""Two stages, a mixture of three sources, crops and a moving mask rate."""

TWO_RANKS = ("trainer.devices=2", "trainer.strategy=ddp")
STREAMED = ("dataset.streaming=true", "dataset.eval_samples=20")

CASES = {
    "curriculum, 2 workers": Case((*CURRICULUM, "dataset.num_workers=2")),
    "curriculum, two ranks, streaming, 0 workers": Case(
        (*CURRICULUM, *TWO_RANKS, *STREAMED, "dataset.num_workers=0"), ranks=2
    ),
    "packed, muonclip, 0 workers": Case(
        (
            "optimizer=muonclip",
            "datacollator.pack_sequences=true",
            "dataset.num_workers=0",
            "dataset.streaming=false",
        ),
    ),
    "streaming, unpacked, adamw, 2 workers": Case(
        (
            "optimizer=adamw",
            "datacollator.pack_sequences=false",
            "dataset.num_workers=2",
            "dataset.streaming=true",
            "dataset.shuffle_buffer_size=40",
            "dataset.eval_samples=20",
        ),
        signal.SIGINT,
    ),
}
LONG_CASES = {
    "curriculum, streaming, 1 worker": Case((*CURRICULUM, *STREAMED, "dataset.num_workers=1")),
    "curriculum, two ranks, 0 workers": Case(
        (*CURRICULUM, *TWO_RANKS, "dataset.num_workers=0"), ranks=2
    ),
    "unpacked, adamw, 2 workers": Case(
        (
            "optimizer=adamw",
            "datacollator.pack_sequences=false",
            "dataset.num_workers=2",
            "dataset.streaming=false",
        ),
    ),
    "pre-tokenised, packed, adamw, 2 workers": Case(
        (
            "optimizer=adamw",
            "datacollator.pack_sequences=true",
            "dataset.num_workers=2",
            "dataset.streaming=false",
            "dataset.pre_tokenize=true",
        ),
    ),
    "streaming, packed, muonclip, 0 workers": Case(
        (
            "optimizer=muonclip",
            "datacollator.pack_sequences=true",
            "dataset.num_workers=0",
            "dataset.streaming=true",
            "dataset.shuffle_buffer_size=40",
        ),
    ),
    "two ranks, packed, muonclip, 0 workers": Case(
        (
            "optimizer=muonclip",
            "datacollator.pack_sequences=true",
            "dataset.num_workers=0",
            "dataset.streaming=false",
            "trainer.devices=2",
            "trainer.strategy=ddp",
        ),
        ranks=2,
    ),
    "two ranks, streaming, unpacked, adamw, 1 worker": Case(
        (
            "optimizer=adamw",
            "datacollator.pack_sequences=false",
            "dataset.num_workers=1",
            "dataset.streaming=true",
            "dataset.shuffle_buffer_size=40",
            "trainer.devices=2",
            "trainer.strategy=ddp",
        ),
        ranks=2,
    ),
}


class Training:
    """A run in a process of its own, all of whose processes can be killed at once."""

    def __init__(self, start: Callable[[], object]) -> None:
        self._process = start()

    @property
    def code(self) -> int | None:
        """Its exit code; ``None`` while it runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def wait(self) -> int | None:
        """Its exit code, once it has ended."""
        limit = time.monotonic() + WAIT
        while self.code is None and time.monotonic() < limit:
            time.sleep(0.01)
        return self.code

    def kill(self) -> int | None:
        """SIGKILL to the run and, as when a machine goes down, to all its ranks."""
        if isinstance(self._process, subprocess.Popen):
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        return self.wait()

    def signal(self, number: signal.Signals) -> int | None:
        os.kill(self._process.pid, number)
        return self.wait()


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
        lines = [" ".join(draw.choices(WORDS, k=draw.randint(3, 60))) for _ in range(200)]
        (folder / f"part-{shard}.txt").write_text("\n".join(lines) + "\n")
    return folder


def start(server: ForkServerContext, case: Case, overrides: list[str]) -> Training:
    def forked() -> object:
        process = server.Process(target=train, args=(overrides,))
        process.start()
        return process

    def started() -> object:
        # Lightning starts the other ranks by this command, which a fork does not have.
        command = [sys.executable, "-m", "neobert.train", *overrides]
        return subprocess.Popen(command, start_new_session=True)

    return Training(forked if case.ranks == 1 else started)


def wait_for_progress(run: Training, output: Path, more: float) -> None:
    """Let a batch more pass than the run had at its start, then ``more`` seconds."""
    digests = output / "batches-0.csv"

    def lines() -> int:
        return len(digests.read_text().splitlines()) if digests.exists() else 0

    limit, before = time.monotonic() + WAIT, lines()
    while run.code is None and lines() <= before and time.monotonic() < limit:
        time.sleep(0.005)
    time.sleep(more)


def wait_for_saving(run: Training, output: Path) -> None:
    """Wait until an unfinished checkpoint is on disk."""
    limit = time.monotonic() + WAIT
    while run.code is None and time.monotonic() < limit:
        if any((output / "checkpoints").glob(".incomplete-*")):
            return
        time.sleep(0.0005)


def kill_again_and_again(
    server: ForkServerContext, case: Case, overrides: list[str], output: Path, pace: float
) -> int:
    """Kill the run again and again, stop it once, let it end; return how often it was killed.

    ``pace`` is the seconds of a step, so that a fast machine has not ended before it is killed.
    """
    kills, draw = 0, random.Random(str(case))
    for attempt in range(KILLS):
        run = start(server, case, [*overrides, RESUME])
        if attempt % 2:
            wait_for_saving(run, output)
        else:
            wait_for_progress(run, output, draw.random() * 3 * pace)
        kills += run.kill() == -signal.SIGKILL
    run = start(server, case, [*overrides, RESUME])
    wait_for_progress(run, output, 0.0)
    assert run.signal(case.stop) == 75
    assert start(server, case, [*overrides, RESUME]).wait() == 0
    return kills


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
        assert len(digests.read_text().splitlines()) > STEPS


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


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.proves("trainer.resume_from_checkpoint", "trainer.log_batch_digests", "seed")
@pytest.mark.parametrize("name", [*CASES, *(LONG_CASES if LONG else ())])
def test_a_killed_run_ends_as_the_undisturbed_one(
    server: ForkServerContext, corpus: Path, tmp_path: Path, name: str
) -> None:
    case = {**CASES, **LONG_CASES}[name]
    common = [
        *TINY,
        f"dataset.path={corpus}",
        f"dataset.cache_dir={tmp_path / 'cache'}",
        f"dataset.pre_tokenize_output={tmp_path / 'tokens'}",
        *(setting.replace("CORPUS", str(corpus)) for setting in case.settings),
    ]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert start(server, case, [*common, f"trainer.output_dir={undisturbed}"]).wait() == 0
    output = f"trainer.output_dir={killed}"
    pace = json.loads((undisturbed / "summary.json").read_text())["seconds"] / STEPS
    kills = kill_again_and_again(server, case, [*common, output], killed, pace)
    log.info("%s: killed %d times", name, kills)  # seen with --log-cli-level=INFO
    assert kills >= KILLS // 2
    assert len(list(undisturbed.glob("batches-*.csv"))) == case.ranks
    assert_same_end(undisturbed, killed)
