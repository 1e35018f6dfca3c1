"""Splits from local files of any format, from packages, and what is said where there are none."""

import gzip
import json
import os
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from neobert.config.dataset import DatasetConfig
from neobert.data.sources import open_source
from neobert.data.task_splits import Splits, open_splits
from neobert.errors import ConfigError
from neobert.tasks.glue.labels import label_splits
from neobert.tasks.glue.packaged import packaged_folder
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
@pytest.mark.parametrize("whole", [False, True])
def test_a_saved_dataset_is_sliced(tmp_path: Path, whole: bool) -> None:
    rows = Dataset.from_list(sentences(20))
    saved = rows if whole else DatasetDict(train=rows, dev=rows)
    saved.save_to_disk(tmp_path / "data")
    splits = read(tmp_path, train_split="train[:10]", eval_split="train[10:14]")
    assert splits.train["sentence"][:] == rows["sentence"][:10]
    assert splits.validation[""]["sentence"][:] == rows["sentence"][10:14]
    if not whole:
        assert len(read(tmp_path).validation[""]) == 20


NAMES = [
    ("train.CSV.gz", "val.csv.gz"),
    ("train.tsv", "valid.tsv"),
    ("my.train.jsonl", "my.dev.jsonl"),
    ("train/part-0.jsonl", "validation/part-0.jsonl"),
    ("all.csv", "eval.csv"),
]


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffixes = path.name.lower()
    separator = "\t" if ".tsv" in suffixes else ","
    lines = [separator.join(rows[0])] + [separator.join(map(str, row.values())) for row in rows]
    if ".jsonl" in suffixes:
        lines = [json.dumps(row) for row in rows]
    content = "\ufeff" + "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(content.encode()) if ".gz" in suffixes else content.encode())


@pytest.mark.proves("dataset.path")
@pytest.mark.parametrize(("train", "validation"), NAMES)
def test_files_are_found_by_the_names_that_pretraining_knows(
    tmp_path: Path, train: str, validation: str
) -> None:
    rows = sentences(6)
    write_table(tmp_path / "data" / train, rows)
    write_table(tmp_path / "data" / validation, rows[:2])
    write_table(tmp_path / "data/other_task/train.csv", rows * 9)
    splits = read(tmp_path)
    assert splits.train["sentence"][:] == [row["sentence"] for row in rows]
    assert splits.train["label"][:] == [row["label"] for row in rows]
    assert len(splits.validation[""]) == 2


def test_the_path_may_be_a_file(tmp_path: Path) -> None:
    write_table(tmp_path / "data", sentences(1))  # no format
    with pytest.raises(ConfigError, match=r"dataset\.path=.*data: holds data; one of \.parquet"):
        read(tmp_path)
    write_table(tmp_path / "dev.csv", sentences(20))
    config = DatasetConfig(path=str(tmp_path / "dev.csv"), validation_split=0.2)
    splits = open_splits(TASKS["sst2"], "sst2", config, tmp_path / "cache", seed=0)
    assert (len(splits.train), len(splits.validation[""])) == (16, 4)
    assert splits.train["sentence"][:] == [
        text
        for text in (row["sentence"] for row in sentences(20))
        if text in splits.train["sentence"][:]
    ]
    config = DatasetConfig(path=str(tmp_path / "dev.csv"))
    with pytest.raises(ConfigError, match=r"has no validation.*dataset\.validation_split=0\.1"):
        open_splits(TASKS["sst2"], "sst2", config, tmp_path / "cache", seed=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "validation.csv: empty"), ("sentence,label\n", r"validation\.csv is empty")],
)
def test_an_empty_evaluation_file_is_said_to_be_empty(
    tmp_path: Path, content: str, message: str
) -> None:
    write_table(tmp_path / "data/train.csv", sentences(6))
    (tmp_path / "data/validation.csv").write_text(content)
    with pytest.raises(ConfigError, match=message):
        label_splits(TASKS["sst2"], read(tmp_path))


def test_rows_are_known_by_the_content_of_their_files(tmp_path: Path) -> None:
    """Else tokens would be made anew in each run, or stale ones read."""

    def known() -> str:
        return read(tmp_path).train._fingerprint

    file = tmp_path / "data/train.jsonl"
    write_table(file, sentences(6))
    write_table(tmp_path / "data/val.jsonl", sentences(2))
    first, stamp = known(), file.stat().st_mtime_ns
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "data")
    assert known() == first
    file.write_text(file.read_text().replace('"label": 1', '"label": 0'))
    os.utime(file, ns=(stamp, stamp))
    assert known() != first
    saved = Dataset.from_list(sentences(6))
    for folder in ("data/saved", "other"):
        DatasetDict(train=saved, dev=saved).save_to_disk(tmp_path / folder)
        saved = saved.map(lambda row: {"label": 0})
    config = DatasetConfig(path=str(tmp_path / "data/saved"))
    before = open_splits(TASKS["sst2"], "sst2", config, tmp_path / "cache", 0).train._fingerprint
    arrow = "train/data-00000-of-00001.arrow"
    (tmp_path / "data/saved" / arrow).write_bytes((tmp_path / "other" / arrow).read_bytes())
    after = open_splits(TASKS["sst2"], "sst2", config, tmp_path / "cache", 0).train
    assert after["label"][:] == [0] * 6
    assert after._fingerprint != before


def test_all_files_that_cannot_be_read_are_told_at_once(tmp_path: Path) -> None:
    write_table(tmp_path / "data/train.csv", sentences(6))
    (tmp_path / "data/train.csv").write_text("sentence,label\na,1,2\n")
    (tmp_path / "data/dev.jsonl").write_text("null\n")
    with pytest.raises(ConfigError) as error:
        read(tmp_path)
    assert len(error.value.problems) == 2
    assert "train.csv, line 2: 3 fields, the header has 2" in error.value.problems[0]
    assert "dev.jsonl, line 1: null, not a JSON object" in error.value.problems[1]


def test_texts_may_be_nested_and_other_columns_may_be_anything(tmp_path: Path) -> None:
    task = GlueTask(texts=("doc.text",), label_column="meta.label")
    rows = [
        {"doc": {"text": "a"}, "meta": {"label": "x"}, "id": 1},
        {"doc": {"text": "b"}, "meta": {"label": "y"}, "id": "two"},
    ]
    for split in ("train", "validation"):
        write_rows(tmp_path / f"data/{split}.jsonl", rows)
    task, found = label_splits(task, read(tmp_path, task))
    assert found["train"].data["doc.text"][:] == ["a", "b"]
    assert task.labels == ("x", "y")


@pytest.mark.proves("dataset.config")
def test_the_configuration_of_local_files_is_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = GlueTask(texts=("sentence",), config="en", source="local", revision=None)
    for folder, count in (("data", 4), ("data/en", 6)):
        for split in ("train", "validation"):
            write_table(tmp_path / folder / f"{split}.csv", sentences(count))
    assert len(read(tmp_path, own, config="en").train) == 6
    other = GlueTask(texts=("sentence",), config="de", source="local", revision=None)
    with pytest.raises(ConfigError, match=r"dataset\.config=de: .* has no folder of that name"):
        read(tmp_path, other, config="de")
    read(tmp_path, config="de")
    assert "dataset.config=de has no effect" in caplog.text


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


@pytest.mark.parametrize("count", [200, 12_000])
@pytest.mark.parametrize("keys", [{"validation_split": 0.05}, {"eval_samples": 9}])
def test_the_same_rows_are_held_out_as_in_pretraining(
    tmp_path: Path, count: int, keys: dict[str, float]
) -> None:
    rows = [{"sentence": f"row {number}", "label": number % 2} for number in range(count)]
    file = write_rows(tmp_path / "data/train.jsonl", rows)
    splits = read(tmp_path, **keys)
    config = DatasetConfig(path=str(file), text_column="sentence", streaming=False, **keys)
    source = open_source(config, tmp_path / "cache", seed=0)
    assert source.evaluation is not None
    assert splits.validation[""]["sentence"][:] == list(source.evaluation.texts())
    assert splits.train["sentence"][:] == list(source.train.texts())
    assert splits.where("validation") == f"{tmp_path / 'data'}, validation"  # not the whole file


def test_of_one_row_none_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_rows(tmp_path / "data/train.jsonl", sentences(1))
    with pytest.raises(ConfigError, match="has no validation"):
        read(tmp_path, validation_split=0.5)
    assert "has fewer than 2 documents: none is held out" in caplog.text
    with pytest.raises(ConfigError, match=r"dataset\.eval_samples: .* has only 1 documents"):
        read(tmp_path, eval_samples=1)


@pytest.mark.parametrize(("samples", "evaluated"), [(3, 3), (20, 19), (50, 19)])
def test_eval_samples_come_from_the_head_where_nothing_else_is_evaluated_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, samples: int, evaluated: int
) -> None:
    write_rows(tmp_path / "data/train.jsonl", sentences(20))
    write_rows(tmp_path / "data/test.jsonl", sentences(4))
    splits = read(tmp_path, eval_samples=samples)
    expected = [row["sentence"] for row in sentences(20)]
    assert splits.validation[""]["sentence"][:] == expected[:evaluated]
    assert splits.train["sentence"][:] == expected[evaluated:]
    assert len(splits.test["test"]) == 4
    assert ("dataset.eval_samples: lowered to 19" in caplog.text) == (samples > evaluated)
    with pytest.raises(ConfigError, match="has no held"):
        read(tmp_path, eval_samples=samples, eval_split="held")
    write_rows(tmp_path / "data/validation.jsonl", sentences(60, seed=1))
    splits = read(tmp_path, eval_samples=samples)
    assert (len(splits.train), len(splits.validation[""])) == (20, samples)


def test_a_packaged_task_needs_no_network(tmp_path: Path) -> None:
    task, cache = TASKS["factbook_sections"], tmp_path / "cache"
    packaged = packaged_folder(task.source, cache)
    config = DatasetConfig(name="factbook")
    splits = open_splits(task, "factbook_sections", config, cache, 0, packaged)
    train, held_out = set(splits.train["text"]), set(splits.validation[""]["text"])
    assert len(splits.train) > 5000
    assert len(train) == len(splits.train)
    assert not train & held_out
    assert {"Geography", "Government"} <= set(splits.train.unique("label"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "there is no such file or folder"),
        (("train",), "has no validation (such as validation.csv); it holds train.jsonl"),
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
    with pytest.raises(ConfigError, match=r"train.jsonl, line 1: not valid JSON"):
        read(tmp_path)


def test_without_the_hub_the_way_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nyu-mll/glue sst2 bcdcba.*dataset.path=FOLDER"):
        open_splits(TASKS["sst2"], "sst2", DatasetConfig(), tmp_path / "cache", 0)


def test_a_task_of_ones_own_must_say_where_it_is(tmp_path: Path) -> None:
    own = GlueTask(texts=("text",), source="factbook", revision=None)
    with pytest.raises(ConfigError, match=r"set dataset.path"):
        open_splits(own, "mine", DatasetConfig(name="factbook"), tmp_path / "cache", 0)
