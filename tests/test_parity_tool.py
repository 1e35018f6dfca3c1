"""``make test-parity`` takes the effect of a key away, and of nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CONSUMER = """
import dataclasses

def read(value, names):
    for name in names:
        value = getattr(value, name)
    return value

def copy(value, names):
    return dataclasses.asdict(read(value, names[:-1]))[names[-1]]

def method(config):
    return config.row_length()
"""
PROGRAM = """
import json, sys, types
from neobert.config.compose import compose_config
words, key, consumer = json.loads(sys.argv[1])
config, names = compose_config(words), key.split(".")
module = types.ModuleType("neobert.training.consumer")
exec(consumer, module.__dict__)
here = config
for name in names:
    here = getattr(here, name)
print(json.dumps({
    "test": here,
    "consumer": module.read(config, names),
    "copy": module.copy(config, names),
    "method": module.method(config),
}))
"""


def values(mutated: str, words: list[str], key: str) -> dict[str, object]:
    """What a test, a consumer, a consumer's copy and a method of the section see of ``key``."""
    paths = os.pathsep.join([str(ROOT / "tests" / "mutation"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([words, key, CONSUMER])],
        env={**os.environ, "PYTHONPATH": paths, "NEOBERT_MUTATE": mutated},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_consumers_see_the_default_and_tests_what_was_set() -> None:
    words = ["dataset.max_seq_length=64", "datacollator.pack_sequences=false"]
    key = "dataset.max_seq_length"
    assert values("dataset.max_seq_length", words, key) == {
        "test": 64,
        "consumer": 512,
        "copy": 512,
        "method": 512,
    }
    assert set(values("dataset.min_length", words, key).values()) == {64}


@pytest.mark.parametrize(
    ("mutated", "words", "key", "seen"),
    [
        ("ns_steps", ["ns_steps=7"], "ns_steps", 5),
        ("polar_express", ["polar_express=no"], "orthogonalization", "polar_express"),
    ],
)
def test_nested_and_older_keys_lose_their_effect(
    mutated: str, words: list[str], key: str, seen: object
) -> None:
    section = "optimizer.muon_config"
    words = ["optimizer=muonclip", *(f"{section}.{word}" for word in words)]
    assert values(f"{section}.{mutated}", words, f"{section}.{key}")["consumer"] == seen
    assert values("seed", words, f"{section}.{key}")["consumer"] != seen


def test_checks_and_composition_go_on_as_ever(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("seed: 5\n")
    words = [f"config_path={tmp_path / 'run.yaml'}", "trainer.logging_steps=3"]
    assert values("trainer.logging_steps", words, "seed")["test"] == 5
    assert values("config_path", words, "seed")["test"] == 0
