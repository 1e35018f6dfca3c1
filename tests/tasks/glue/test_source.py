"""Splits from local files of any format, from packages, and what is said where there are none."""

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from neobert.config.checks import ConfigError
from neobert.config.dataset import DatasetConfig
from neobert.tasks.glue.source import Splits, open_splits
from neobert.tasks.glue.tasks import TASKS, GlueTask
from tests.tasks.glue.conftest import sentences, write_rows

ROWS = [
    {"sentence": 'NA, said "she"', "label": 1, "idx": 0},
    {"sentence": "None", "label": 0, "idx": 1},
    {"sentence": "plain text", "label": 1, "idx": 2},
]


def write_csv(path: Path) -> None:
    quoted = (f'"{row["sentence"].replace(chr(34), chr(34) * 2)}",{row["label"]}' for row in ROWS)
    path.write_text("sentence,label\n" + "".join(f"{line}\n" for line in quoted))


def write_tsv(path: Path) -> None:
    lines = (f"{row['sentence']}\t{row['label']}\n" for row in ROWS)
    path.write_text("sentence\tlabel\n" + "".join(lines))


WRITERS = {
    ".jsonl": lambda path: write_rows(path, ROWS),
    ".csv": write_csv,
    ".tsv": write_tsv,
    ".parquet": lambda path: Dataset.from_list(ROWS).to_parquet(path),
}


def read(tmp_path: Path, task: GlueTask = TASKS["sst2"], **settings: object) -> Splits:
    config = DatasetConfig(path=str(tmp_path / "data"), **settings)
    return open_splits(task, "sst2", config, tmp_path / "cache", seed=0)


@pytest.mark.proves("dataset.path")
@pytest.mark.parametrize("ending", WRITERS)
def test_a_format_gives_the_rows_as_they_are(tmp_path: Path, ending: str) -> None:
    for split in ("train", "validation"):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        WRITERS[ending](folder / f"{split}{ending}")
    splits = read(tmp_path)
    assert splits.train["sentence"][:] == [row["sentence"] for row in ROWS]
    assert splits.train["label"][:] == [1, 0, 1]
    assert list(splits.validation) == [""]
    assert splits.test == {}


def test_shards_and_other_names_of_a_split_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "data/data"
    for number in range(2):
        path = folder / f"train-0000{number}-of-00002.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(ROWS).to_parquet(path)
    Dataset.from_list(ROWS[:1]).to_parquet(folder / "dev.parquet")
    splits = read(tmp_path)
    assert len(splits.train) == 6
    assert len(splits.validation[""]) == 1


def test_a_folder_of_tasks_serves_all_of_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    premises = [{"premise": "a", "hypothesis": "b", "label": 2, "idx": 0}]
    for split in ("train", "validation_matched", "validation_mismatched", "test_matched"):
        write_rows(data / f"mnli/{split}.jsonl", premises)
    write_rows(data / "ax/test.jsonl", premises * 3)
    splits = open_splits(
        TASKS["mnli"], "mnli", DatasetConfig(path=str(data)), tmp_path / "cache", 0
    )
    assert list(splits.validation) == ["", "_mm"]
    assert list(splits.test) == ["test_matched"]
    diagnostic = open_splits(
        TASKS["ax"], "ax", DatasetConfig(path=str(data)), tmp_path / "cache", 0
    )
    assert len(diagnostic.train) == 1
    assert len(diagnostic.test["test"]) == 3


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    part = Dataset.from_list(ROWS)
    DatasetDict(train=part, validation=part).save_to_disk(tmp_path / "data")
    assert len(read(tmp_path).train) == 3


@pytest.mark.proves("dataset.train_split", "dataset.eval_split")
def test_splits_are_sliced_and_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "data/train.jsonl", sentences(20))
    write_rows(tmp_path / "data/other.jsonl", sentences(6))
    splits = read(tmp_path, train_split="train[:25%]", eval_split="other[2:]")
    assert len(splits.train) == 5
    assert len(splits.validation[""]) == 4


@pytest.mark.proves("dataset.validation_split", "dataset.eval_samples")
def test_a_missing_evaluation_set_is_split_off(tmp_path: Path) -> None:
    write_rows(tmp_path / "data/train.jsonl", sentences(20))
    splits = read(tmp_path, validation_split=0.25, eval_samples=3)
    assert len(splits.train) == 15
    assert len(splits.validation[""]) == 3


def test_a_packaged_task_needs_no_network(tmp_path: Path) -> None:
    task = TASKS["factbook_sections"]
    splits = open_splits(
        task, "factbook_sections", DatasetConfig(name="factbook"), tmp_path / "cache", 0
    )
    train, held_out = set(splits.train["text"]), set(splits.validation[""]["text"])
    assert len(splits.train) > 5000
    assert len(train) == len(splits.train)
    assert not train & held_out
    assert {"Geography", "Government"} <= set(splits.train.unique("label"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "there is no such folder"),
        (("train",), "has no validation{.parquet,.jsonl,.json,.csv,.tsv}; it holds train.jsonl"),
        (("validation",), "has no train"),
    ],
)
def test_a_missing_file_is_told(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    for name in files:
        write_rows(tmp_path / f"data/{name}.jsonl", sentences(4))
    with pytest.raises(ConfigError) as error:
        read(tmp_path)
    assert said in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text("{not json\n")
    with pytest.raises(ConfigError, match=r"train.jsonl could not be read as json"):
        read(tmp_path)


def test_without_the_hub_the_way_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nyu-mll/glue sst2 bcdcba.*dataset.path=FOLDER"):
        open_splits(TASKS["sst2"], "sst2", DatasetConfig(), tmp_path / "cache", 0)


def test_a_task_of_ones_own_must_say_where_it_is(tmp_path: Path) -> None:
    own = GlueTask(texts=("text",), source="factbook", revision=None)
    with pytest.raises(ConfigError, match=r"set dataset.path"):
        open_splits(own, "mine", DatasetConfig(name="factbook"), tmp_path / "cache", 0)
