"""The wheel works away from the checkout: it carries ``conf/``."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but this package, as ``pip install`` unpacks its wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    # The backend itself: pip would look for it on the network.
    code = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neobert.train", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site)},  # before the editable checkout
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_wheel_carries_the_package_and_every_group_file(installed: Path) -> None:
    names = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    packages = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert packages == {"neobert", "hydra_plugins"}  # Hydra finds launchers in the second
    there = installed / "neobert" / "conf"
    assert {path.relative_to(there) for path in there.rglob("*.yaml")} == names


def test_it_composes_and_trains_from_any_directory(installed: Path, tmp_path: Path) -> None:
    where = [sys.executable, "-c", "import neobert; print(neobert.__file__)"]
    found = subprocess.run(
        where,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(installed)
    shown = run(installed, tmp_path, "--cfg", "job", "experiment=quickstart")
    assert shown.returncode == 0, shown.stderr
    assert "train_vocab_size: 8192" in shown.stdout
    (tmp_path / "text.txt").write_text("one small text about the sea and the hills\n" * 40)
    done = run(
        installed,
        tmp_path,
        "dataset=local",
        "dataset.path=text.txt",
        "dataset.cache_dir=cache",
        "dataset.num_workers=0",
        "tokenizer.train_vocab_size=64",
        "model=neobert_tiny",
        "model.num_hidden_layers=1",
        "trainer.max_steps=2",
        "dataset.max_seq_length=32",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output" / "checkpoints" / "2" / "model.safetensors").is_file()
