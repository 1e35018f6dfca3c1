"""Reading the sources: each row of the table on a row as the hub has it, and own files."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neobert.errors import ConfigError
from neobert.tasks.contrastive.examples import read_examples, texts_at
from neobert.tasks.contrastive.packaged_pairs import Example, factbook_pairs
from neobert.tasks.contrastive.pair_sources import TABLE, own_source

ROWS = {
    "ALLNLI": {"anchor": "q", "positive": "p", "negative": "n"},
    "AMAZONQA": {"query": "q", "pos": ["p", "p2"]},
    "CONCURRENTQA": {
        "question": "q",
        "pos_paras": [{"text": "p", "title": "t"}],
        "neg_paras": [{"text": "n", "title": "t"}, {"text": "n2", "title": "t"}],
    },
    "GITHUBISSUE": {"anchor": "q", "positive": "p"},
    "GOOAQ": {"question": "q", "answer": "p", **{f"negative_{i}": f"n{i}" for i in range(1, 6)}},
    "PAQ": {"set": ["q", "p"]},
    "PUBMEDQA": {"anchor": "q", "positive": "p", **{f"negative_{i}": "n" for i in range(1, 21)}},
    "QQP": {"set": {"query": "q", "pos": ["p", "p2"], "neg": ["n", "n2", "n3"]}},
    "SENTENCECOMP": {"set": ["p", "q"]},
    "STACKEXCHANGE": {"post1": "q", "post2": "p"},
    "STACKOVERFLOW": {"query": "q", "positive": ["p"], "negative": ["n", "n2"]},
    "STS12": {"sentence1": "q", "sentence2": "p", "score": 4.5},
    "STSBENCHMARK": {"sentence1": "q", "sentence2": "p", "score": 5.0},
    "TRIVIAQA": {"anchor": "q", "positive": "p", "negative": "n"},
    "WIKIHOW": {"text": "q", "summary": "p"},
}
NEGATIVES = {
    "ALLNLI": 1,
    "CONCURRENTQA": 2,
    "GOOAQ": 5,
    "PUBMEDQA": 20,
    "QQP": 3,
    "STACKOVERFLOW": 2,
    "TRIVIAQA": 1,
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.proves("contrastive.sources_dir")
def test_a_local_copy_of_a_source_gives_its_pairs_and_negatives(name: str, tmp_path: Path):
    pq.write_table(pa.Table.from_pylist([ROWS[name]] * 2), tmp_path / f"{name}.parquet")
    found = list(read_examples(TABLE[name], str(tmp_path)))
    assert [(one.query, one.positive) for one in found] == [("q", "p")] * 2
    assert [len(one.negatives) for one in found] == [NEGATIVES.get(name, 0)] * 2
    assert all(text.startswith("n") for text in found[0].negatives)


@pytest.mark.parametrize("name", ["FEVER", "MSMARCO"])
def test_joined_tables_give_the_pairs_that_are_judged_relevant(name: str, tmp_path: Path):
    folder = tmp_path / name
    folder.mkdir()
    tables = {
        "queries": [{"_id": "1", "text": "q1"}, {"_id": "2", "text": "q2"}],
        "corpus": [{"_id": "a", "title": "t", "text": "da"}, {"_id": "b", "text": "db"}],
        "qrels": [
            {"query-id": "1", "corpus-id": "a", "score": 1},
            {"query-id": "2", "corpus-id": "a", "score": 0},
            {"query-id": "2", "corpus-id": "b", "score": 1.0},
        ],
    }
    for table, rows in tables.items():
        (folder / f"{table}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = [(one.query, one.positive) for one in read_examples(TABLE[name], str(tmp_path))]
    assert found == [("q1", "da"), ("q2", "db")]


def test_scored_pairs_count_only_above_the_score(tmp_path: Path):
    rows = [{**ROWS["STS12"], "score": score} for score in (4.0, 4.2, 1.0)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "STS12.parquet")
    assert len(list(read_examples(TABLE["STS12"], str(tmp_path)))) == 1


def test_the_hub_is_asked_for_configuration_and_split(tmp_path: Path, monkeypatch):
    # A folder with the id as its path is what `datasets` reads instead of the hub.
    folder = tmp_path / "sentence-transformers/all-nli"
    for part, word in (("triplet", "right"), ("pair", "wrong")):
        (folder / part).mkdir(parents=True)
        row = {"anchor": word, "positive": "p", "negative": "n"}
        pq.write_table(pa.Table.from_pylist([row]), folder / part / "train-0.parquet")
    configs = [
        {"config_name": part, "data_files": [{"split": "train", "path": f"{part}/train-*"}]}
        for part in ("triplet", "pair")
    ]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    assert list(read_examples(TABLE["ALLNLI"])) == [Example("right", "p", ["n"])]


def test_a_hub_that_cannot_be_reached_is_one_clear_error():
    with pytest.raises(ConfigError, match=r"wikihow \(default, train\) could not be loaded"):
        list(read_examples(TABLE["WIKIHOW"]))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_own_pairs_come_from_any_format(suffix: str, tmp_path: Path):
    rows = [{"a": "one", "b": "two", "c": "three"}, {"a": "x", "b": "y", "c": "z"}]
    file = tmp_path / f"mine{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix in (".csv", ".tsv"):
        with file.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, "abc", delimiter="," if suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)))
    own = {"path": str(file), "query": "a", "positive": "b", "negatives": "c"}
    found = list(read_examples(own_source("mine", own)))
    assert found == [Example("one", "two", ["three"]), Example("x", "y", ["z"])]


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ({"a": 5, "b": "y", "c": []}, "a"),
        ({"a": "x", "b": ["y"], "c": []}, "b"),
        ({"a": "x", "b": "y", "c": ["z", {"text": "n"}]}, r"c\[\]"),
    ],
)
def test_what_is_not_text_is_an_error_with_file_row_and_column(row, path: str, tmp_path: Path):
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, [{"a": None, "b": "y", "c": ["z"]}, row])))
    own = {"path": str(file), "query": "a", "positive": "b", "negatives": "c[]"}
    with pytest.raises(ConfigError, match=rf"mine.jsonl: row 1: {path} is not a string but"):
        list(read_examples(own_source("mine", own)))


def test_labelled_data_pairs_each_text_with_another_of_its_label(tmp_path: Path):
    labels = {
        "rain": "weather",
        "snow": "weather",
        "wind": "weather",
        "cat": "animal",
        "dog": "animal",
    }
    rows = [{"s": text, "l": label} for text, label in {**labels, "alone": "single"}.items()]
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    own = own_source("mine", {"path": str(file), "text": "s", "label": "l"})
    found = {one.query: one for one in read_examples(own)}
    assert set(found) == set(labels)  # "alone" has no other text of its label
    for text, one in found.items():
        assert one.positive != text
        assert labels[one.positive] == labels[text]
        assert one.group == f"mine {labels[text]}"


def test_a_source_without_the_needed_columns_is_one_clear_error(tmp_path: Path):
    (tmp_path / "ALLNLI.jsonl").write_text('{"anchor": "q", "pos": "p"}')
    message = (
        r"sources_dir: .*ALLNLI.jsonl has no column positive, negative; its columns are anchor"
    )
    with pytest.raises(ConfigError, match=message):
        list(read_examples(TABLE["ALLNLI"], str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": "q", "b"', r"mine\.path: .*mine\.jsonl, line 1: not valid JSON"),
        ('["a", "b"]\n', "line 1: element 1 of the list is a string, not a JSON object"),
        (None, r"contrastive\.sources\.mine\.path=.*there is no such file"),
    ],
)
def test_a_damaged_or_missing_file_is_one_clear_error(content, message, tmp_path: Path):
    file = tmp_path / "mine.jsonl"
    if content is not None:
        file.write_text(content)
    own = own_source("mine", {"path": str(file), "query": "a", "positive": "b"})
    with pytest.raises(ConfigError, match=message):
        list(read_examples(own))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a", ["x"]),
        ("b[1]", ["z"]),
        ("b[]", ["y", "z"]),
        ("b[7]", []),
        ("c.d[].e", ["1", "", "3"]),
        ("missing|a", ["x"]),
        ("a.b", []),
    ],
)
def test_paths_lead_into_rows(path, found):
    row = {"a": "x", "b": ["y", "z"], "c": {"d": [{"e": "1"}, {"e": None}, {"e": "3"}]}}
    assert texts_at(row, path) == found


def test_factbook_pairs_ask_for_a_field_of_a_country():
    found = {one.query: one for one in factbook_pairs()}
    assert len(found) > 20_000
    climate = found["Climate of Croatia"]
    assert "continental" in climate.positive
    assert 500 < sum(bool(one.held_out) for one in found.values()) < 3000


WORDNET = """\
  1 This software and database is being provided to you
00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is perceived; "a being"; "an entity"
00002098 00 a 02 unable(p) 0 not_able 0 001 = 05200169 n 0101 | lacking the means
"""


@pytest.mark.proves("contrastive.sources_dir")
def test_wordnet_pairs_the_words_of_a_synset_with_its_definition(tmp_path: Path):
    folder = tmp_path / "WORDNET"
    folder.mkdir()
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_text(WORDNET if part == "noun" else "")
    assert list(read_examples(TABLE["WORDNET"], str(tmp_path))) == [
        Example("entity", "that which is perceived"),
        Example("unable, not able", "lacking the means"),
    ]


def pairs_file(file: Path, *queries: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"a": query, "b": "p"}) + "\n" for query in queries))


def test_files_called_validation_are_held_out_and_those_called_test_are_not_read(tmp_path, caplog):
    for name in ("pairs", "pairs.val", "test/pairs"):
        pairs_file(tmp_path / f"mine/{name}.jsonl", name)
    own = own_source("mine", {"path": str(tmp_path / "mine"), "query": "a", "positive": "b"})
    with caplog.at_level("INFO", logger="neobert"):
        found = [(one.query, one.held_out) for one in read_examples(own)]
    assert found == [("pairs", False), ("pairs.val", True)]
    expected = "train: pairs.jsonl; validation: pairs.val.jsonl; test (not read): test/pairs.jsonl"
    assert expected in caplog.text


@pytest.mark.proves("contrastive.sources_dir")
def test_a_copy_of_the_hub_s_folder_is_trained_on_its_training_split_alone(tmp_path: Path):
    for split in ("train", "dev", "test"):
        row = {"anchor": split, "positive": "p", "negative": "n"}
        folder = tmp_path / "ALLNLI/triplet"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row]), folder / f"{split}-00000-of-00001.parquet")
    found = [(one.query, one.held_out) for one in read_examples(TABLE["ALLNLI"], str(tmp_path))]
    assert found == [("train", False), ("dev", True)]


def test_joined_tables_have_their_split_in_the_judgements(tmp_path: Path):
    folder = tmp_path / "FEVER"
    for name in ("queries", "corpus"):
        rows = [{"_id": str(number), "text": f"{name} {number}"} for number in range(3)]
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for number, split in enumerate(("train", "dev", "test")):
        judged = f"query-id\tcorpus-id\tscore\n{number}\t{number}\t1\n"
        (folder / f"qrels/{split}.tsv").write_text(judged)
    found = [(one.query, one.held_out) for one in read_examples(TABLE["FEVER"], str(tmp_path))]
    assert found == [("queries 0", False), ("queries 1", True)]


def test_labelled_texts_are_paired_within_their_split(tmp_path: Path):
    for split, texts in (("train", "abc"), ("val", "de")):
        rows = [{"s": text, "l": "x"} for text in texts]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = own_source("mine", {"path": str(tmp_path), "text": "s", "label": "l"})
    for one in read_examples(own):
        assert {one.query, one.positive} <= set("de" if one.held_out else "abc")
