"""Files are complete or absent, folders too; whatever a library raises on a file is one line."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from neobert import files
from neobert.errors import ConfigError, RunError
from neobert.files import (
    first_line,
    is_disk_full,
    publish_folder,
    read_json,
    read_text,
    reading,
    replacing,
    set_aside,
    sha256,
    user_path,
    write_atomically,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", "old")

    def interrupted() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_of_a_folder_get_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    """safetensors writes its file as 0600, so that nobody else could read the weights."""
    before = os.umask(umask)
    try:
        with publish_folder(tmp_path / "made") as folder:
            save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
            (folder / "config.json").write_text("{}")
        write_atomically(tmp_path / "made" / "later.json", "{}")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "made").iterdir()}
    assert modes == {0o666 & ~umask}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupted() -> None:
        with publish_folder(tmp_path / "made") as folder:
            (folder / "half").write_text("half")
            assert not (tmp_path / "made").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_is_set_aside_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        with publish_folder(tmp_path / "made", replace=text == "third") as folder:
            (folder / "text").write_text(text)
    contents = {path.name: (path / "text").read_text() for path in tmp_path.iterdir()}
    assert contents == {"made": "third", "made.old-1": "first"}
    assert set_aside(tmp_path / "made").name == "made.old-2"


@pytest.mark.parametrize(
    "error",
    [ValueError("bad"), RecursionError("deep"), MemoryError(), Exception("bare"), OSError(5)],
)
def test_whatever_a_library_raises_is_one_line_with_file_and_key(error: Exception) -> None:
    with pytest.raises(ConfigError) as caught, reading("some/file", "tokenizer.path"):
        raise error
    (line,) = caught.value.problems
    assert line.startswith("tokenizer.path=some/file: cannot be read (")
    assert first_line(error) in line


def test_a_bare_exception_of_tokenizers_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "of the future"}}')
    message = r"tokenizer\.path=.*cannot be read"
    with pytest.raises(ConfigError, match=message), reading(tmp_path, "tokenizer.path"):
        Tokenizer.from_file(str(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize(
    "error", [ConfigError("mine"), RunError("mine"), KeyboardInterrupt("mine")]
)
def test_what_says_enough_already_passes(error: BaseException) -> None:
    with pytest.raises(type(error), match="mine"), reading("file", "key"):
        raise error


def test_the_first_line_of_an_error_that_says_nothing_is_its_type() -> None:
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("\n\n second\nthird")) == "second"


def test_a_full_disk_is_known_from_every_library() -> None:
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert is_disk_full(wrapped)
    assert is_disk_full(Exception("No space left on device (os error 28)"))
    assert not is_disk_full(Exception("No such file or directory (os error 2)"))


def test_odd_files_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="no file"):
        read_text(tmp_path / "fifo")
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        read_text(_with(tmp_path / "large", "x" * 1001), 1000)
    with pytest.raises(ValueError, match="no file"):
        read_text(Path("/dev/zero"))
    with pytest.raises(ValueError, match="nested too deep"):
        read_json(_with(tmp_path / "nested.json", "[" * 100_000))
    assert read_text(_with(tmp_path / "marked", "\ufeffa")) == "a"


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256(_with(tmp_path / "empty", "")) == empty


def test_it_imports_no_torch() -> None:
    code = "import sys, neobert.files; sys.exit('torch' in sys.modules)"
    root = Path(files.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def _with(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("written", "path"), [("~/a b", "{home}/a b"), ("~nobody1/x", "~nobody1/x"), ("a/~", "a/~")]
)
def test_the_home_directory_is_expanded_where_there_is_one(
    written: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path(written) == Path(path.format(home=tmp_path))
