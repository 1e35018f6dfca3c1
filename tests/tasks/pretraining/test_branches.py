"""Branches: a decay that leaves a trunk, which stays as it is."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from safetensors.torch import load_file

from neobert.errors import ConfigError

TRUNK = (
    "trainer.max_steps=8",
    "trainer.save_steps=2",
    "trainer.save_total_limit=0",
    "trainer.logging_steps=1",
    "trainer.log_batch_digests=true",
    "scheduler.name=constant",
)
DECAY = ("scheduler.name=wsd", "scheduler.decay_length=3", "trainer.max_steps=7")


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def trunk(tiny_run_module) -> Path:
    return tiny_run_module(*TRUNK, folder="trunk")


@pytest.fixture(scope="module")
def branch(trunk: Path, tiny_run_module) -> Path:
    start = f"trainer.branch_from={trunk / 'checkpoints/4'}"
    return tiny_run_module(*TRUNK, *DECAY, start, folder="branch")


def rates(run: Path) -> dict[int, float]:
    header, *lines = (run / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("train/learning_rate")
    rows = [line.split(",") for line in lines]
    return {int(row[0]): float(row[column]) for row in rows if row[column]}


def test_a_branch_continues_weights_and_data_with_a_schedule_of_its_own(
    trunk: Path, branch: Path
) -> None:
    assert sorted(int(one.name) for one in (branch / "checkpoints").iterdir()) == [6, 7]
    lines = (trunk / "batches-0.csv").read_text().splitlines()
    ours = [line for line in (branch / "batches-0.csv").read_text().splitlines() if "," in line]
    assert ours[1:] == lines[5:8]
    found = rates(branch)
    assert min(found) == 5
    # The logged rate is that of the next update; the floor is a tenth.
    assert [found[5], found[6], found[7]] == pytest.approx([7e-3, 4e-3, 1e-3])
    assert json.loads((branch / "summary.json").read_text())["steps"] == 7


def test_the_trunk_is_not_touched_and_other_branches_leave_it_too(
    trunk: Path, branch: Path, tiny_run_module
) -> None:
    before = content(trunk)
    start = f"trainer.branch_from={trunk / 'checkpoints/4'}"
    again = tiny_run_module(*TRUNK, *DECAY, start, folder="again")
    assert content(trunk) == before
    one, other = (load_file(run / "checkpoints/7/model.safetensors") for run in (branch, again))
    assert all(one[name].equal(other[name]) for name in one)


def test_a_stopped_branch_resumes_as_itself(trunk: Path, branch: Path, tiny_run_module) -> None:
    copy = branch.with_name("stopped")
    shutil.copytree(branch, copy)
    shutil.rmtree(copy / "checkpoints/7")
    start = f"trainer.branch_from={trunk / 'checkpoints/4'}"
    resume = "trainer.resume_from_checkpoint=latest"
    tiny_run_module(*TRUNK, *DECAY, start, resume, folder="stopped")
    one, other = (load_file(run / "checkpoints/7/model.safetensors") for run in (branch, copy))
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["seed=5"], "seed differs from the checkpoint's"),
        (["dataset.max_seq_length=16"], "dataset.max_seq_length differs"),
    ],
)
def test_a_branch_with_other_data_is_refused(
    trunk: Path, tiny_run_module, settings: list[str], problem: str
) -> None:
    start = f"trainer.branch_from={trunk / 'checkpoints/4'}"
    with pytest.raises(ConfigError, match=problem):
        tiny_run_module(*TRUNK, *DECAY, start, *settings, folder="refused")


def test_a_branch_into_its_trunk_is_refused(trunk: Path, tiny_run_module) -> None:
    with pytest.raises(ConfigError, match="a branch needs a folder of its own"):
        tiny_run_module(*TRUNK, *DECAY, f"trainer.branch_from={trunk}", folder="trunk")


STAGES = "stages=[{until: 4}, {per_device_train_batch_size: 4, mlm_probability: 0.4}]"


@pytest.mark.parametrize(
    ("before", "after"),
    [((), (STAGES,)), ((STAGES,), ("stages=[]",)), ((STAGES,), (STAGES.replace("4}", "3}", 1),))],
    ids=["stages added", "stages removed", "another border"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_branch_with_other_stages_continues_with_the_very_next_row(
    tiny_run_module, tmp_path: Path, before: tuple[str, ...], after: tuple[str, ...], stream: bool
) -> None:
    kind = ("dataset.streaming=true", "dataset.eval_samples=5") if stream else ()
    masks = ("datacollator.mlm_probability=0.2",)
    name = f"{len(before)}{len(after[0])}{stream}"
    run = tiny_run_module(*TRUNK, *kind, *masks, *before, folder=f"trunk-{name}")
    start = f"trainer.branch_from={run / 'checkpoints/6'}"
    branch = tiny_run_module(*TRUNK, *kind, *masks, *after, start, folder=f"branch-{name}")
    whole = tiny_run_module(*TRUNK, *kind, *masks, *after, folder=f"whole-{name}")
    rest, expected = (
        [line for line in (one / "batches-0.csv").read_text().splitlines() if line[:1] in "67"]
        for one in (branch, whole)
    )
    assert rest == expected
    assert len(rest) == 2
