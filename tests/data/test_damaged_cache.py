"""What is cached and has been damaged since: one line with the folder to delete, no wrong data."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import Dataset

from neobert.data.loader import Workers, build_loader
from neobert.data.packing import Packing, RowPlan
from neobert.data.token_store import TokenStore, write_store
from neobert.errors import ConfigError, RunError

LENGTHS = np.array([30, 20, 40])


def open_store(folder: Path) -> list[int]:
    store = TokenStore.open(folder)
    return [len(store.document(number)) for number in range(len(store.lengths))]


def open_plan(folder: Path) -> list[int]:
    plan = RowPlan.load(folder)
    return [len(plan.row(number)) for number in range(plan.num_rows)]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: list[Callable[[Path], object]] = [
    cut,
    replace_by_folder,
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(np.random.default_rng(0).bytes(4000)),
]


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cached")
    tokens = np.arange(LENGTHS.sum(), dtype=np.uint32) % 90
    write_store(folder / "store", [(tokens, LENGTHS)], 100)
    (folder / "plan").mkdir()
    packing = Packing(row_length=64, longest=64, wrapping=2, packed=True, truncate=True)
    packing.write_plan(TokenStore.open(folder / "store").offsets, folder / "plan")
    assert open_store(folder / "store") == LENGTHS.tolist()
    assert sum(open_plan(folder / "plan")) == len(LENGTHS)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name",
    [
        *(f"store/{name}" for name in ("starts.npy", "offsets.npy", "shards/00000/tokens.npy")),
        *(f"plan/{name}.npy" for name in ("document", "start", "length", "bounds")),
        "store/store.json",
        "plan/plan.json",
    ],
)
def test_a_damaged_file_is_one_line_with_its_folder(
    cached: Path, tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    copy = shutil.copytree(cached, tmp_path / "cache")
    damage(copy / name)
    folder = copy / name.partition("/")[0]
    with pytest.raises(RunError) as raised:
        (open_plan if name.startswith("plan") else open_store)(folder)
    (problem,) = raised.value.problems
    assert problem.startswith(f"{folder}: damaged (")
    assert problem.endswith("delete it, and the next run makes it again")


class Failing(Dataset[int]):
    """Batches none of which can be read."""

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def __getitem__(self, number: int) -> int:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise self.kind("a.jsonl, line 3: damaged", "b.jsonl: empty") from error


@pytest.mark.parametrize("kind", [ConfigError, RunError])
def test_what_a_loader_process_raises_has_its_problems_and_no_traceback(
    kind: type[ConfigError | RunError],
) -> None:
    with pytest.raises(kind) as raised:
        list(build_loader(Failing(kind), range(2), Workers(1)))
    assert raised.value.problems == ["a.jsonl, line 3: damaged", "b.jsonl: empty"]


def test_a_program_that_keeps_the_error_of_a_loader_process_ends() -> None:
    script = (
        "from neobert.data.loader import Workers, build_loader\n"
        "from neobert.errors import ConfigError\n"
        "from tests.data.test_damaged_cache import Failing\n"
        "try:\n    list(build_loader(Failing(ConfigError), range(2), Workers(2)))\n"
        "except ConfigError as error:\n    kept = error\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], check=False, cwd=root, timeout=120)
    assert done.returncode == 0
