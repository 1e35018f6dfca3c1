import os
import pickle
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from neobert.config.dataset import DatasetConfig
from neobert.data.sources import Source, open_source
from neobert.errors import ConfigError


def opened(path: object, cache: Path, **settings: object) -> Source:
    return open_source(DatasetConfig(path=str(path), **settings), cache, seed=0)


def trained_on(source: Source) -> list[str]:
    return list(source.train.texts())


def held_out(source: Source) -> list[str]:
    assert source.evaluation is not None
    return list(source.evaluation.texts())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten numbered lines."""
    path = tmp_path / "data"
    path.mkdir()
    (path / "lines.txt").write_text("".join(f"line {n}\n" for n in range(10)))
    return path


def numbers(*wanted: int) -> list[str]:
    return [f"line {number}" for number in wanted]


@pytest.mark.proves("dataset.streaming")
def test_a_file_is_a_stream_only_where_asked(folder: Path, tmp_path: Path) -> None:
    assert opened(folder, tmp_path, streaming=True).stream is not None
    assert opened(folder, tmp_path, streaming=False).stream is None


def test_a_save_to_disk_folder_is_indexed_whatever_the_key_says(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(tmp_path / "saved"))
    source = opened(tmp_path / "saved", tmp_path, streaming=True)
    assert source.stream is None
    assert trained_on(source) == ["a", "b"]


@pytest.mark.proves("dataset.train_split", "dataset.eval_split")
@pytest.mark.parametrize("streaming", [False, True])
def test_splits_may_be_slices(folder: Path, tmp_path: Path, streaming: bool) -> None:
    source = opened(
        folder,
        tmp_path,
        streaming=streaming,
        train_split="train[2:5]",
        eval_split="train[8:]",
    )
    assert trained_on(source) == numbers(2, 3, 4)
    assert held_out(source) == numbers(8, 9)


def test_slices_by_percent_need_a_length(folder: Path, tmp_path: Path) -> None:
    source = opened(folder, tmp_path, streaming=False, train_split="train[:30%]")
    assert trained_on(source) == numbers(0, 1, 2)
    with pytest.raises(ConfigError, match=r"dataset\.train_split=.*percent slicing"):
        opened(folder, tmp_path, streaming=True, train_split="train[:30%]")


def test_an_unknown_split_is_named_with_those_that_are_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.eval_split=dev: .* has the splits train"):
        opened(folder, tmp_path, streaming=False, eval_split="dev")


@pytest.mark.proves("dataset.validation_split")
def test_a_fraction_is_held_out_and_trained_on_by_nobody(folder: Path, tmp_path: Path) -> None:
    source = opened(folder, tmp_path, streaming=False, validation_split=0.3)
    assert len(held_out(source)) == 3
    assert sorted(held_out(source) + trained_on(source)) == numbers(*range(10))
    assert sorted(held_out(source)) == held_out(source)  # both in the order of the files
    assert sorted(trained_on(source)) == trained_on(source)
    config = DatasetConfig(path=str(folder), streaming=False, validation_split=0.3)
    other = open_source(config, tmp_path, seed=1)
    assert held_out(other) != held_out(source)
    assert other.train.key != source.train.key


def test_a_fraction_of_many_documents_is_held_out_as_nearly_as_hashes_give_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "many.txt").write_text("".join(f"line {n}\n" for n in range(20_000)))
    source = opened(tmp_path / "many.txt", tmp_path, streaming=False, validation_split=0.02)
    held = held_out(source)
    assert 0.017 < len(held) / 20_000 < 0.023
    assert sorted({*held, *trained_on(source)}) == sorted(numbers(*range(20_000)))
    assert len(trained_on(source)) == 20_000 - len(held)


def test_of_one_document_none_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "one.txt").write_text("alone\n")
    source = opened(tmp_path / "one.txt", tmp_path, streaming=False, validation_split=0.02)
    assert trained_on(source) == ["alone"]
    assert source.evaluation is None
    assert "dataset.validation_split" in caplog.text


@pytest.mark.proves("dataset.eval_samples")
@pytest.mark.parametrize("streaming", [False, True])
def test_eval_samples_come_from_the_head_and_are_not_trained_on(
    folder: Path, tmp_path: Path, streaming: bool
) -> None:
    source = opened(folder, tmp_path, streaming=streaming, eval_samples=3)
    assert held_out(source) == numbers(0, 1, 2)
    assert trained_on(source) == numbers(3, 4, 5, 6, 7, 8, 9)


def test_one_document_is_always_left_to_train_on(folder: Path, tmp_path: Path) -> None:
    source = opened(folder, tmp_path, streaming=False, eval_samples=50)
    assert trained_on(source) == numbers(9)


def test_files_called_validation_are_held_out(folder: Path, tmp_path: Path) -> None:
    (folder / "validation.txt").write_text("kept apart\nand this\n")
    source = opened(folder, tmp_path, streaming=False, validation_split=0.5, eval_samples=1)
    assert held_out(source) == ["kept apart"]
    assert trained_on(source) == numbers(*range(10))


@pytest.mark.parametrize("streaming", [False, True])
def test_held_out_files_are_evaluated_on_by_any_of_their_names(
    folder: Path, tmp_path: Path, streaming: bool
) -> None:
    (folder / "dev").mkdir()
    (folder / "dev/a.txt").write_text("kept apart\n")
    (folder / "test.txt").write_text("never seen\n")
    for settings in ({}, {"eval_split": "val"}, {"eval_split": "validation"}):
        source = opened(folder, tmp_path, streaming=streaming, **settings)
        assert held_out(source) == ["kept apart"]
        assert trained_on(source) == numbers(*range(10))
    assert held_out(opened(folder, tmp_path, eval_split="test")) == ["never seen"]
    assert trained_on(opened(folder, tmp_path, train_split="test[:1]")) == ["never seen"]


@pytest.mark.proves("dataset.text_column")
def test_the_text_column_is_the_named_one_or_the_first_known(tmp_path: Path) -> None:
    rows = {"content": ["c"], "sentence": ["s"], "body": ["b"]}
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(str(tmp_path / "saved"))
    assert trained_on(opened(tmp_path / "saved", tmp_path)) == ["s"]
    assert trained_on(opened(tmp_path / "saved", tmp_path, text_column="body")) == ["b"]
    with pytest.raises(ConfigError, match=r"dataset\.text_column=words: .*content, sentence, body"):
        opened(tmp_path / "saved", tmp_path, text_column="words")


NESTED = '{"doc": {"text": "one", "n": 1}}\n{"doc": null}\n{"doc": {"text": "two"}}\n'


@pytest.mark.proves("dataset.text_column")
@pytest.mark.parametrize("streaming", [False, True])
def test_the_text_column_may_lead_into_a_column(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "a.jsonl").write_text(NESTED)
    source = opened(tmp_path / "a.jsonl", tmp_path, streaming=streaming, text_column="doc.text")
    assert trained_on(source) == ["one", "", "two"]
    rows = {"doc": [{"text": "one"}, {"text": "two"}]}
    Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    assert trained_on(opened(tmp_path / "saved", tmp_path, text_column="doc.text")) == [
        "one",
        "two",
    ]
    with pytest.raises(ConfigError, match=r"has no column doc.txt; its columns are doc"):
        trained_on(opened(tmp_path / "a.jsonl", tmp_path, text_column="doc.txt"))


@pytest.mark.proves("dataset.text_column", "dataset.config")
def test_keys_that_a_packaged_corpus_does_not_have_are_told(tmp_path: Path) -> None:
    config = DatasetConfig(name="factbook", text_column="body")
    with pytest.raises(ConfigError, match=r"dataset\.text_column=body: factbook has the columns"):
        open_source(config, tmp_path, seed=0)
    with pytest.raises(ConfigError, match=r"dataset\.config=en: factbook has no configurations"):
        open_source(DatasetConfig(name="factbook", config="en"), tmp_path, seed=0)


@pytest.mark.proves("dataset.config")
def test_the_configuration_of_local_files_is_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "en").mkdir()
    (folder / "en/a.txt").write_text("english\n")
    assert trained_on(opened(folder, tmp_path, config="en", streaming=False)) == ["english"]
    with pytest.raises(ConfigError, match=r"dataset\.config=de: .* has no folder of that name"):
        opened(folder, tmp_path, config="de")


def test_a_file_that_was_replaced_with_its_time_stamp_kept_is_other_data(
    folder: Path, tmp_path: Path
) -> None:
    file = folder / "lines.txt"
    first = opened(folder, tmp_path, streaming=False)
    stamp = file.stat().st_mtime_ns
    file.write_text(file.read_text().replace("line 3", "LINE 3"))  # of the same size too
    os.utime(file, ns=(stamp, stamp))
    second = opened(folder, tmp_path, streaming=False)
    assert first.train.key != second.train.key
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/lines.txt").write_bytes(file.read_bytes())
    assert opened(tmp_path / "copy", tmp_path, streaming=False).train.key == second.train.key


def test_a_save_to_disk_folder_that_was_replaced_is_other_data(tmp_path: Path) -> None:
    saved = Dataset.from_dict({"text": ["a", "b"]})
    saved.save_to_disk(str(tmp_path / "saved"))
    before = opened(tmp_path / "saved", tmp_path).train
    Dataset.from_dict({"text": ["a", "c"]}).save_to_disk(str(tmp_path / "other"))
    arrow = "data-00000-of-00001.arrow"
    (tmp_path / "saved" / arrow).write_bytes((tmp_path / "other" / arrow).read_bytes())
    after = opened(tmp_path / "saved", tmp_path).train
    assert list(after.texts()) == ["a", "c"]
    assert before.key != after.key


def test_a_damaged_save_to_disk_folder_is_named(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"saved: this save_to_disk folder is damaged"):
        opened(tmp_path / "saved", tmp_path)


@pytest.mark.proves("dataset.name")
def test_a_packaged_corpus_needs_no_network_and_may_be_sliced(tmp_path: Path) -> None:
    whole = open_source(DatasetConfig(name="factbook"), tmp_path, seed=0)  # reads nothing yet
    slices = DatasetConfig(name="factbook", train_split="train[5:7]", eval_split="train[:1]")
    part = open_source(slices, tmp_path, seed=0)
    assert len(trained_on(part)) == 2
    assert held_out(part)[0].startswith("Algeria. Background: ")
    assert whole.train.key != part.train.key
    halves = DatasetConfig(name="factbook", train_split="validation[:40]", validation_split=0.25)
    assert len(held_out(open_source(halves, tmp_path, seed=0))) == 10
    assert len(trained_on(open_source(halves, tmp_path, seed=0))) == 30


def test_a_fraction_that_is_not_needed_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = DatasetConfig(name="factbook", validation_split=0.1)
    with caplog.at_level("INFO"):
        assert open_source(config, tmp_path, seed=0).evaluation is not None
    assert "dataset.validation_split is not needed" in caplog.text


def test_the_reference_s_name_of_its_corpus_is_found_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load(name: str, *_: object, **__: object) -> Dataset:
        asked.append(name)
        return Dataset.from_dict({"content": ["a", "b"]})

    monkeypatch.setattr("datasets.load_dataset", load)
    assert trained_on(open_source(DatasetConfig(), tmp_path, seed=0)) == ["a", "b"]
    assert asked == ["tiiuae/falcon-refinedweb"]


def test_what_the_hub_does_not_give_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.name=nobody/nothing could not be loaded"):
        open_source(DatasetConfig(name="nobody/nothing"), tmp_path, seed=0)


SCRIPT = """
import datasets

class Numbers(datasets.GeneratorBasedBuilder):
    BUILDER_CONFIGS = [datasets.BuilderConfig(name=name) for name in ("few", "many")]
    DEFAULT_CONFIG_NAME = "few"

    def _info(self):
        return datasets.DatasetInfo(features=datasets.Features({"text": datasets.Value("string")}))

    def _split_generators(self, dl_manager):
        return [datasets.SplitGenerator(name="train", gen_kwargs={"count": 2})]

    def _generate_examples(self, count):
        for number in range(count if self.config.name == "few" else 10 * count):
            yield number, {"text": f"number {number}"}
"""


@pytest.mark.proves("dataset.trust_remote_code", "dataset.config")
@pytest.mark.parametrize("streaming", [False, True])
def test_loading_code_runs_only_when_trusted(tmp_path: Path, streaming: bool) -> None:
    folder = tmp_path / "numbers"
    folder.mkdir()
    (folder / "numbers.py").write_text(SCRIPT)
    settings = {"streaming": streaming}
    with pytest.raises(ConfigError, match=r"numbers\.py.*dataset\.trust_remote_code=true"):
        opened(folder, tmp_path / "cache", **settings)
    trusted = {**settings, "trust_remote_code": True}
    assert trained_on(opened(folder, tmp_path / "cache", **trusted)) == ["number 0", "number 1"]
    many = opened(folder, tmp_path / "cache", config="many", **trusted)
    assert len(trained_on(many)) == 20


def test_loading_code_runs_again_when_a_file_beside_it_changes(tmp_path: Path) -> None:
    folder = tmp_path / "numbers"
    folder.mkdir()
    reads_a_file = 'yield number, {"text": (Path(__file__).parent / "word").read_text()}'
    script = SCRIPT.replace('yield number, {"text": f"number {number}"}', reads_a_file)
    (folder / "numbers.py").write_text(f"from pathlib import Path\n{script}")
    trusted = {"streaming": False, "trust_remote_code": True}
    for word in ("coal", "rice"):
        (folder / "word").write_text(word)
        os.utime(folder / "word", (0, 0))
        assert trained_on(opened(folder, tmp_path / "cache", **trusted)) == [word, word]


@pytest.mark.parametrize("streaming", [False, True])
def test_documents_can_be_handed_to_a_fresh_process(
    folder: Path, tmp_path: Path, streaming: bool
) -> None:
    source = opened(folder, tmp_path, streaming=streaming, eval_samples=3)
    again = pickle.loads(pickle.dumps(source.train.head(4)))
    assert list(again.texts()) == numbers(3, 4, 5, 6)
