import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neobert.data.cache import build_cached, cache_folder
from neobert.errors import RunError


@pytest.mark.proves("dataset.cache_dir")
def test_the_key_wins_over_the_variable_and_that_over_the_users_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("NEOBERT_CACHE", raising=False)
    assert cache_folder(None) == Path("/xdg/neobert")
    monkeypatch.setenv("NEOBERT_CACHE", "/variable")
    assert cache_folder(None) == Path("/variable")
    assert cache_folder("/key") == Path("/key")


def test_a_folder_appears_only_when_complete(tmp_path: Path) -> None:
    folder = tmp_path / "made"

    def fail(target: Path) -> None:
        (target / "half").write_text("half")
        raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        build_cached(folder, fail)
    assert not folder.exists()
    build_cached(folder, lambda target: (target / "whole").write_text("all"))
    build_cached(folder, fail)  # is there, so nothing is made
    assert [file.name for file in folder.iterdir()] == ["whole"]


def test_a_rebuilt_folder_replaces_the_old_one_only_when_complete(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    (tmp_path / ".replaced-made").mkdir()  # left by a killed process
    build_cached(folder, lambda target: (target / "old").write_text("all"))

    def fail(target: Path) -> None:
        raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        build_cached(folder, fail, rebuild=True)
    assert [file.name for file in folder.iterdir()] == ["old"]
    build_cached(folder, lambda target: (target / "new").write_text("all"), rebuild=True)
    assert [file.name for file in folder.iterdir()] == ["new"]
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".incomplete-made-12").mkdir()
    (tmp_path / ".incomplete-made-12" / "half").write_text("half")
    build_cached(tmp_path / "made", lambda target: (target / "whole").write_text("all"))
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["whole"]


def test_files_of_others_with_a_like_name_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "made.tmp").mkdir()
    (tmp_path / "made.lock").write_text("mine")
    build_cached(tmp_path / "made", lambda target: (target / "whole").write_text("all"))
    assert (tmp_path / "made.tmp").is_dir()
    assert (tmp_path / "made.lock").read_text() == "mine"


def test_what_has_its_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: dict[int, bool] = {}
    monkeypatch.setattr(
        os,
        "fsync",
        lambda file: synced.update({os.fstat(file).st_ino: (tmp_path / "made").exists()}),
    )

    def make(target: Path) -> None:
        (target / "below").mkdir()
        for name in ("one", "below/two"):
            (target / name).write_text(name)

    build_cached(tmp_path / "made", make)
    for name in ("one", "below/two"):
        assert synced[(tmp_path / "made" / name).stat().st_ino] is False  # before it had its name
    assert synced[tmp_path.stat().st_ino] is True


def test_a_full_disk_is_told_with_the_key_to_change_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunError, match=r"could not be written.*dataset\.cache_dir"):
            build_cached(tmp_path / "made", lambda to: np.save(to / "x.npy", np.zeros(10_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


TWO_RUNS = """
import sys, time
from pathlib import Path
from neobert.data.cache import build_cached

def make(target):
    with open(Path(sys.argv[1]) / "log", "a") as log:
        log.write("made\\n")
    time.sleep(0.5)
    (target / "whole").write_text("all")

build_cached(Path(sys.argv[1]) / "made", make)
assert (Path(sys.argv[1]) / "made" / "whole").read_text() == "all"
"""


def test_two_runs_with_one_cache_make_a_folder_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO_RUNS, str(tmp_path)]
    runs = [subprocess.Popen(command) for _ in range(2)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"
