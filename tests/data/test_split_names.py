"""Which file belongs to which split: names, folders, links, globs."""

import os
from pathlib import Path

import pytest

from neobert.data.data_files import DataFiles, find_files
from neobert.data.rows import FORMATS
from neobert.errors import ConfigError

EVERY = set(FORMATS.values())


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")
    return folder


def names_by_split(found: DataFiles, folder: Path, *requested: str) -> dict[str, list[str]]:
    return {
        split: [file.relative_to(folder).as_posix() for file in files]
        for split, files in found.by_split(requested).items()
    }


def split_names(folder: Path, *requested: str) -> dict[str, list[str]]:
    return names_by_split(find_files(folder, "dataset.path", EVERY), folder, *requested)


SPLITS = {
    "train": [
        "train.txt",
        "Train-00000-of-00010.parquet",
        "train/dev_notes.txt",
        "a/b.train.txt",
        "training.txt",
        "traindata/0.txt",
        "Training Data/dev_notes.txt",
    ],
    "validation": [
        "val.jsonl",
        "VALID.TXT",
        "my.dev.jsonl",
        "dev.tsv.gz",
        "validation_matched.tsv",
        "eval-00000-of-00002.parquet",
        "validation/part-0.txt",
        "Dev Set/a/b.txt",
        "val2017/0.txt",
        "train_dev.txt",
        "corpus_validation.txt.zst",
        "evaluation.jsonl",
        "heldout/a.txt",
        "Held-Out-00000-of-00002.parquet",
        "holdout.csv.gz",
        "validate.txt",
        "development-00001.jsonl",
        "devset.tsv",
        "valset/a.txt",
    ],
    "test": [
        "test.txt",
        "test-set/a.txt",
        "unit.test.0.txt",
        "test/validated/a.txt",
        "testing.txt",
        "Testing/a.txt",
        "testset.jsonl.gz",
    ],
    "": [
        "device_manuals.txt",
        "testimony.txt",
        "evaluation_of_bridges.txt",
        "a_holdout_of_outlaws.txt",
        "novels.txt",
        "contest.txt",
        "latest/a.txt",
        "developers/a.txt",
        "values.txt",
        "trainers.txt",
        "testing_of_bridges.txt",
        "my_training_diary.txt",
        "web_development.txt",
        "dataset.txt",
    ],
}


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for split, names in SPLITS.items() for name in names]
)
def test_whole_words_of_file_and_folder_names_tell_the_split(
    tmp_path: Path, name: str, split: str
) -> None:
    made(tmp_path / "data", name, "plain.txt", "other_validation.txt", "z_test.txt")
    splits = split_names(tmp_path / "data")
    assert [one for one, files in splits.items() if name in files] == [split or "train"]


@pytest.mark.parametrize("folder", ["test", "val/corpus", "dev_data"])
def test_the_folders_up_to_the_one_that_is_set_tell_nothing(tmp_path: Path, folder: str) -> None:
    made(tmp_path / folder, "a.txt", "val/b.txt")
    assert split_names(tmp_path / folder) == {"train": ["a.txt"], "validation": ["val/b.txt"]}
    (file,) = find_files(tmp_path / folder / "val/b.txt", "dataset.path", EVERY).by_split().values()
    assert [path.name for path in file] == ["b.txt"]


def test_files_of_one_split_only_are_training_data_unless_requested(tmp_path: Path) -> None:
    made(tmp_path / "data", "test-0.txt", "test-1.txt")
    assert split_names(tmp_path / "data") == {"train": ["test-0.txt", "test-1.txt"]}
    assert split_names(tmp_path / "data", "test") == {"test": ["test-0.txt", "test-1.txt"]}


def test_held_out_files_without_training_files_are_not_trained_on(tmp_path: Path) -> None:
    made(tmp_path / "data", "test.txt", "val.txt")
    assert split_names(tmp_path / "data") == {"test": ["test.txt"], "validation": ["val.txt"]}


def test_a_split_may_be_requested_by_the_name_of_its_file(tmp_path: Path) -> None:
    made(tmp_path / "data", "train.txt", "extra.txt", "dev_matched.tsv", "dev_mismatched.tsv")
    assert split_names(tmp_path / "data", "extra")["extra"] == ["extra.txt"]
    found = find_files(tmp_path / "data", "dataset.path", EVERY)
    assert [file.name for file in found.of_split("validation_matched")] == ["dev_matched.tsv"]
    assert [file.name for file in found.of_split("train")] == ["train.txt"]


def test_another_data_set_s_folder_does_not_serve_a_split(tmp_path: Path) -> None:
    made(tmp_path / "data", "cola/train.txt", "cola/dev.txt", "data/test-00000-of-00001.txt")
    found = find_files(tmp_path / "data", "dataset.path", EVERY)
    assert found.of_split("train") == found.of_split("validation") == []
    assert [file.name for file in found.of_split("test")] == ["test-00000-of-00001.txt"]


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    made(tmp_path / "elsewhere", "a.txt", "deep/b.txt")
    folder = made(tmp_path / "data", "c.txt")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "twice").symlink_to(tmp_path / "elsewhere")
    (folder / "latest.txt").symlink_to(folder / "c.txt")
    (tmp_path / "elsewhere/deep/up").symlink_to(folder)
    assert split_names(folder) == {"train": ["c.txt", "linked/a.txt", "linked/deep/b.txt"]}


def test_a_link_that_names_a_split_holds_its_files_out(tmp_path: Path) -> None:
    folder = made(tmp_path / "data", "shards/0/a.txt", "shards/1/b.txt")
    (folder / "validation").symlink_to(folder / "shards/1")
    assert split_names(folder) == {"train": ["shards/0/a.txt"], "validation": ["validation/b.txt"]}


def test_files_without_a_name_of_their_own_are_told_by_the_link(tmp_path: Path) -> None:
    # As a snapshot of the hub's cache has it.
    blob = made(tmp_path / "blobs", "3f9a")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.txt").symlink_to(blob / "3f9a")
    assert split_names(tmp_path / "data") == {"train": ["train.txt"]}


def test_hidden_files_are_left_out_but_not_one_that_is_named(tmp_path: Path) -> None:
    made(tmp_path / ".data", ".cache.txt", "_SUCCESS.txt", ".git/a.txt", "a.txt")
    assert split_names(tmp_path / ".data") == {"train": ["a.txt"]}
    assert find_files(tmp_path / ".data/_SUCCESS.txt", "dataset.path", EVERY).files


BRACKETS = [
    "part0.txt",
    "part[0].txt",
    "a::b.txt",
    "*.txt",
    "secret.txt",
    "data [1].txt",
    "a?b.txt",
]


def test_names_with_signs_of_patterns_are_names(tmp_path: Path) -> None:
    folder = made(tmp_path / "my [data]", *BRACKETS)
    assert split_names(folder) == {"train": sorted(BRACKETS)}
    found = find_files(folder / "part[0].txt", "dataset.path", EVERY)
    assert [file.path.name for file in found.files] == ["part[0].txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("data/*.txt", {"train": ["a.txt", "b.txt"]}),
        ("data/**/*.txt", {"train": ["a.txt", "b.txt"], "validation": ["val/c.txt"]}),
        ("data/*", {"train": ["a.txt", "b.txt"], "validation": ["val/c.txt"]}),
        ("data/[ab].txt", {"train": ["a.txt", "b.txt"]}),
        ("*/val/?.txt", {"train": ["val/c.txt"]}),
    ],
)
def test_a_path_that_does_not_exist_may_be_a_glob(
    tmp_path: Path, pattern: str, expected: dict[str, list[str]]
) -> None:
    folder = made(tmp_path / "data", "a.txt", "b.txt", "val/c.txt")
    found = find_files(tmp_path / pattern, "dataset.path", EVERY)
    assert names_by_split(found, folder) == expected


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "there is no such file or folder"),
        ("nowhere/*.txt", "holds nothing"),
        ("fifo", "is neither a file nor a folder"),
        ("x" * 300, "cannot be read"),
        ("a\0b", "cannot be read|there is no such"),
        ("docs", r"holds \.pdf; one of .* needed, also compressed \(\.gz"),
    ],
)
def test_a_path_without_rows_is_one_clear_error(tmp_path: Path, path: str, message: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    made(tmp_path / "docs", "a.pdf")
    with pytest.raises(ConfigError, match=rf"^dataset\.path=.*{message}"):
        find_files(tmp_path / path, "dataset.path", EVERY)
