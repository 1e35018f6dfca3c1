"""Rows of files as tasks of mteb: each type, each kind of file, and what is wrong with them."""

import gzip
import json
from pathlib import Path

import mteb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from neobert.config.mteb import LocalTask, read_local_tasks
from neobert.config.root import Config
from neobert.errors import ConfigError
from neobert.tasks.mteb.local import local_task

PAIRS = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "score": [1.0, 2.0, 0.5]}
TEXTS = {"text": ["one", "two", "three"], "label": ["x", "y", "x"]}
BINARY = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]}


def write(path: Path, columns: dict[str, list]) -> Path:
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".parquet":
            pa.parquet.write_table(table, path)
        case ".csv" | ".tsv":
            comma = "\t" if path.suffix == ".tsv" else ","
            pa.csv.write_csv(table, path, pa.csv.WriteOptions(delimiter=comma))
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def spec(path: Path, kind: str | None, name: str = "Mine", **more: object) -> LocalTask:
    return LocalTask(name=name, path=str(path), type=kind, **{"columns": {}, **more})


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv", "tsv"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, suffix) -> None:
    task = local_task(spec(write(tmp_path / f"pairs.{suffix}", PAIRS), "sts"))
    rows = task.dataset["default"]["test"]
    assert rows.to_dict() == PAIRS
    assert task.metadata.type == "STS"
    jsonl = local_task(spec(write(tmp_path / "same.jsonl", PAIRS), "sts"))
    assert task.metadata.revision == jsonl.metadata.revision


def test_columns_are_renamed_and_rows_limited(tmp_path) -> None:
    renamed = {"l": PAIRS["sentence1"], "r": PAIRS["sentence2"], "gold": PAIRS["score"]}
    columns = {"sentence1": "l", "sentence2": "r", "score": "gold"}
    file = write(tmp_path / "pairs.jsonl", renamed)
    task = local_task(spec(file, "sts", columns=columns, max_rows=2))
    assert task.dataset["default"]["test"].to_dict() == {k: v[:2] for k, v in PAIRS.items()}


def test_a_classification_reads_both_splits_of_a_folder(tmp_path) -> None:
    write(tmp_path / "data/train-00000-of-00001.parquet", TEXTS)
    write(tmp_path / "validation.jsonl", {**TEXTS, "idx": [1, 2, 3]})
    task = local_task(spec(tmp_path, "classification", split="validation"))
    assert set(task.dataset["default"]) == {"train", "validation"}
    assert task.eval_splits == ["validation"]
    assert task.dataset["default"]["validation"].to_dict() == TEXTS


def test_other_types_get_the_columns_of_mteb(tmp_path) -> None:
    pairs = local_task(spec(write(tmp_path / "b.csv", BINARY), "pair_classification"))
    assert pairs.dataset["default"]["test"].column_names == ["sentence1", "sentence2", "labels"]
    groups = local_task(spec(write(tmp_path / "c.csv", TEXTS), "clustering"))
    assert groups.dataset["default"]["test"].column_names == ["sentences", "labels"]
    assert groups.max_fraction_of_documents_to_embed is None


def test_pairs_of_a_file_become_a_corpus_in_which_equal_texts_are_one(tmp_path) -> None:
    pairs = {"query": ["q", "q", "r"], "document": ["one", "two", "two"]}
    task = local_task(spec(write(tmp_path / "qa.jsonl", pairs), "retrieval"))
    data = task.dataset["default"]["test"]
    assert data["queries"]["text"] == ["q", "r"]
    assert data["corpus"]["text"] == ["one", "two"]
    assert data["relevant_docs"] == {"q0": {"d0": 1, "d1": 1}, "q1": {"d1": 1}}


def test_a_folder_of_queries_corpus_and_qrels_is_taken_as_it_is(tmp_path) -> None:
    write(
        tmp_path / "corpus.jsonl", {"_id": ["7", "8"], "title": ["T", ""], "text": ["one", "two"]}
    )
    write(tmp_path / "queries.jsonl", {"_id": ["1", "2"], "text": ["who", "what"]})
    judged = {"query-id": [1, 2], "corpus-id": [7, 8], "score": [2, 0]}
    write(tmp_path / "qrels/test.tsv", judged)
    data = local_task(spec(tmp_path, "retrieval")).dataset["default"]["test"]
    assert data["corpus"].to_list()[0] == {"id": "7", "text": "one", "title": "T"}
    assert data["queries"].to_list() == [{"id": "1", "text": "who"}]  # nothing answers the other
    assert data["relevant_docs"] == {"1": {"7": 2}}


def test_a_task_of_mteb_takes_local_data_in_its_own_columns(tmp_path) -> None:
    task = local_task(spec(write(tmp_path / "test.jsonl", PAIRS), None, "STSBenchmark"))
    assert task.metadata.main_score == "cosine_spearman"
    assert task.metadata.revision != mteb.get_task("STSBenchmark").metadata.revision
    for split in ("train", "test"):
        write(tmp_path / f"banking/{split}.csv", TEXTS)
    banking = local_task(spec(tmp_path / "banking", None, "Banking77Classification"))
    assert set(banking.dataset["default"]) == {"test", "train"}


def test_the_hub_s_layout_below_the_working_folder_needs_no_setting(tmp_path, monkeypatch) -> None:
    data = {**PAIRS, "score": [1.0, 2.0, 3.0]}
    write(tmp_path / "mteb/stsbenchmark-sts/data/test-00000-of-00001.parquet", data)
    monkeypatch.chdir(tmp_path)
    task = mteb.get_task("STSBenchmark")
    task.load_data()
    assert task.dataset["test"]["sentence1"][:] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        ("sts", {**PAIRS, "score": ["x", "y", "z"]}, "row 1: score is not a finite number: 'x'"),
        ("sts", {**PAIRS, "sentence2": ["d", "", "f"]}, "row 2: sentence2 is empty"),
        (
            "sts",
            TEXTS,
            "no column sentence1, sentence2, score; its columns are text, label; name it in",
        ),
        ("classification", TEXTS, "a classification needs a folder with train and test files"),
        ("pair_classification", {**BINARY, "label": [0, 2]}, "row 2: label is neither 0 nor 1"),
        ("clustering", {"text": [], "label": []}, "has no rows"),
    ],
)
def test_wrong_rows_are_told(tmp_path, kind, columns, message) -> None:
    file = write(tmp_path / "rows.parquet", columns)
    with pytest.raises(ConfigError, match=message):
        local_task(spec(file, kind))


def test_missing_and_unreadable_files_are_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        local_task(spec(tmp_path / "nothing", "sts"))
    with pytest.raises(ConfigError, match=r"mteb_local\.Mine\.path=.*: holds nothing; one of"):
        local_task(spec(tmp_path, "sts"))
    write(tmp_path / "other/train.jsonl", PAIRS)
    with pytest.raises(ConfigError, match=r"has no file test \(such as test.jsonl.*other/train"):
        local_task(spec(tmp_path, "sts"))
    (tmp_path / "test.jsonl").write_text("{broken")
    with pytest.raises(ConfigError, match=r"test\.jsonl, line 1: not valid JSON"):
        local_task(spec(tmp_path, "sts"))
    with pytest.raises(ConfigError, match="is no task of mteb; for one of your own say which type"):
        local_task(spec(tmp_path, None, "Nonsense"))
    for name, kind in (("BornholmBitextMining", "BitextMining"), ("SciDocsRR", "Reranking")):
        with pytest.raises(ConfigError, match=f"its type {kind} takes no local data"):
            local_task(spec(tmp_path, None, name))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("pairs.jsonl", "mteb_local.Mine=pairs.jsonl: must be a mapping"),
        ({"type": "sts"}, "mteb_local.Mine.path: must name a file or folder"),
        ({"path": "x", "type": "similarity"}, "mteb_local.Mine.type=similarity: must be one of"),
        ({"path": "x", "kind": "sts"}, "unknown key mteb_local.Mine.kind; it has path, type"),
        ({"path": "x", "max_rows": 0}, "mteb_local.Mine.max_rows=0: must be at least 1"),
        ({"path": "x", "columns": ["a"]}, "mteb_local.Mine.columns=['a']: must be mapping"),
        (
            {"path": "x", "type": "sts", "columns": {"text": "a"}},
            "mteb_local.Mine.columns.text: must be one of sentence1, sentence2, score",
        ),
    ],
)
def test_wrong_descriptions_are_told_before_anything_is_loaded(value, message) -> None:
    (problem,) = Config(mteb_local={"Mine": value}).problems()
    assert problem.startswith(message)


def test_right_descriptions_are_read() -> None:
    tasks, problems = read_local_tasks({"Mine": {"path": "x", "type": "sts", "split": None}})
    assert problems == []
    assert tasks == [LocalTask(name="Mine", path="x", type="sts", columns={})]


NAMES = ["test.jsonl.gz", "my.test.CSV", "test/part-0.tsv", "data/test-00000-of-00002.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_files_of_a_split_are_found_by_the_names_that_pretraining_knows(tmp_path, name) -> None:
    plain = tmp_path / "made" / Path(name.lower().removesuffix(".gz")).name
    write(plain, PAIRS)
    (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
    content = plain.read_bytes()
    (tmp_path / "data" / name).write_bytes(gzip.compress(content) if ".gz" in name else content)
    write(tmp_path / "data/train.jsonl", TEXTS)
    task = local_task(spec(tmp_path / "data", "sts"))
    assert task.dataset["default"]["test"].to_dict() == PAIRS


def test_all_shards_of_a_split_are_read(tmp_path) -> None:
    for number in range(2):
        write(tmp_path / f"data/test-0000{number}-of-00002.parquet", PAIRS)
    assert len(local_task(spec(tmp_path, "sts")).dataset["default"]["test"]) == 6


def test_judgements_of_another_split_do_not_serve(tmp_path) -> None:
    write(tmp_path / "corpus.jsonl", {"_id": ["7"], "text": ["one"]})
    write(tmp_path / "queries.jsonl", {"_id": ["1"], "text": ["who"]})
    judged = {"query-id": [1], "corpus-id": [7], "score": [1]}
    write(tmp_path / "qrels/train.tsv", judged)
    with pytest.raises(ConfigError, match=r"has no file qrels/test"):
        local_task(spec(tmp_path, "retrieval"))
    write(tmp_path / "qrels/test.tsv", {**judged, "score": ["x"]})
    with pytest.raises(ConfigError, match=r"row 1: score is not a finite number: 'x'"):
        local_task(spec(tmp_path, "retrieval"))


@pytest.mark.parametrize("label", [0.5, [1], None])
def test_a_label_that_is_none_is_told(tmp_path, label) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "label": value} for value in (1, label)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match="row 2: label is neither 0 nor 1"):
        local_task(spec(tmp_path / "a.jsonl", "pair_classification"))
