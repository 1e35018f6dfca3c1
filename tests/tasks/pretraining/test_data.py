"""The settings of the data, from the command line's words to batches."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from neobert.config.compose import compose_config
from neobert.cores import available_cores
from neobert.errors import ConfigError
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.training.callbacks.batch_digest import batch_digest

Make = Callable[..., PretrainingDataModule]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(tiny_corpus: Path, cache: Path) -> Make:
    """The data of a run with these settings."""

    def data(*words: str, path: Path = tiny_corpus / "corpus.txt") -> PretrainingDataModule:
        made = PretrainingDataModule(
            compose_config(
                [
                    "dataset=local",
                    f"dataset.path={path}",
                    f"dataset.cache_dir={cache}",
                    "dataset.num_workers=0",
                    "dataset.max_seq_length=32",
                    "tokenizer.train_vocab_size=128",
                    "trainer.per_device_train_batch_size=4",
                    "trainer.max_steps=6",
                    *words,
                ]
            )
        )
        made.setup("fit")
        return made

    return data


def digests(data: PretrainingDataModule) -> list[str]:
    return [batch_digest(batch) for batch in data.train_dataloader()]


@pytest.mark.proves("datacollator.max_length", "dataset.max_seq_length")
def test_packed_rows_have_one_length_and_documents_another(make: Make) -> None:
    packed = ("datacollator.pack_sequences=true", "datacollator.max_length=96")
    batch = next(iter(make(*packed).train_dataloader())).inputs
    assert batch.input_ids.shape == (4 * 96,)
    assert batch.row_length == 96
    short = next(iter(make(*packed, "dataset.max_seq_length=16").train_dataloader())).inputs
    texts = short.lengths[short.input_ids[short.cu_seqlens[:-1].long()] != 0]
    assert int(texts.max()) <= 16 < int(batch.lengths.max()) <= 96


@pytest.mark.proves("dataset.pre_tokenize", "dataset.pre_tokenize_output", "dataset.num_proc")
@pytest.mark.parametrize("streaming", ["true", "false"])
def test_pre_tokenised_data_gives_the_batches_of_the_text(
    make: Make, tmp_path: Path, streaming: str
) -> None:
    plain = make("datacollator.pack_sequences=true", "dataset.validation_split=null")
    ids = make(
        "datacollator.pack_sequences=true",
        "dataset.validation_split=null",
        f"dataset.streaming={streaming}",
        "dataset.pre_tokenize=true",
        "dataset.num_proc=2",
        f"dataset.pre_tokenize_output={tmp_path / 'ids'}",
    )
    assert not ids.is_stream
    assert digests(ids) == digests(plain)


def test_a_pre_tokenised_folder_is_a_data_set_with_a_tokenizer(make: Make, tmp_path: Path) -> None:
    plain = make(
        "dataset.validation_split=null",
        "dataset.pre_tokenize=true",
        f"dataset.pre_tokenize_output={tmp_path / 'ids'}",
    )
    with pytest.raises(ConfigError, match=r"tokenizer\.train_vocab_size: .* holds ids, not text"):
        make("dataset.validation_split=null", path=tmp_path / "ids")
    other = make(
        "dataset.validation_split=null",
        "tokenizer.train_vocab_size=null",
        f"tokenizer.path={tmp_path / 'ids' / 'tokenizer'}",
        path=tmp_path / "ids",
    )
    assert digests(other) == digests(plain)


@pytest.mark.proves("dataset.num_workers")
def test_more_workers_than_cores_are_lowered_in_one_line(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    data = make("dataset.num_workers=1000", "dataset.prefetch_factor=3")
    with caplog.at_level("INFO", logger="neobert"):
        loader = data.train_dataloader()
    assert loader.workers.number == available_cores()
    assert loader.workers.prefetch_factor == 3
    assert f"dataset.num_workers: {available_cores()}, as many as there are cores" in caplog.text


@pytest.mark.proves("dataset.min_length", "dataset.filter_by_length")
def test_a_stage_of_longer_documents_keeps_those_alone(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="neobert"):
        long = make("dataset.filter_by_length=true", "dataset.min_length=16")
    assert min(len(ids) for ids in documents(long)) >= 16 + 2
    assert 0 < long.sources[0].train_plan.num_rows < make().sources[0].train_plan.num_rows
    assert "dataset.filter_by_length kept" in caplog.text
    with pytest.raises(ConfigError, match=r"no document to train on of 31 tokens or more"):
        make("dataset.filter_by_length=true", "dataset.min_length=31")


def documents(data: PretrainingDataModule) -> list[object]:
    rows = data.micro_batches().rows.sources[0].epochs[0]
    laid = [rows.lay_out(row) for row in range(rows.plan.num_rows)]
    parts = [np.split(row.ids[: row.text], np.cumsum(row.lengths)[:-1]) for row in laid]
    return [ids for row in parts for ids in row if len(ids)]


def test_truncation_costs_tokens_and_says_so(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    words = ("dataset.max_seq_length=12", "datacollator.pack_sequences=true")
    with caplog.at_level("INFO", logger="neobert"):
        cut = make(*words)
    assert "tokenizer.truncation left out" in caplog.text
    whole = make(*words, "tokenizer.truncation=false")
    (source,), (short,) = whole.sources, cut.sources
    assert source.train_plan.length.sum() == source.train_store.info.tokens
    assert 0 < short.train_plan.info.cut_tokens < short.train_store.info.tokens


def test_a_corpus_smaller_than_a_batch_trains_on_row_after_row(make: Make) -> None:
    data = make("trainer.per_device_train_batch_size=400", "trainer.max_steps=2")
    assert data.sources[0].train_plan.num_rows < 400
    assert data.steps_per_epoch == 1
    batches = list(data.train_dataloader())
    assert [len(batch.inputs.lengths) for batch in batches] == [400, 400]


@pytest.mark.proves("dataset.streaming", "dataset.eval_samples")
def test_a_stream_needs_a_budget_for_evaluation(make: Make, tiny_corpus: Path) -> None:
    stream = ("dataset.streaming=true", "dataset.eval_split='train[:9]'")
    with pytest.raises(ConfigError, match="explicit budget"):
        make(*stream)
    assert make(*stream, "dataset.eval_samples=5").sources[0].eval_store.info.documents == 5
    by_batches = make(*stream, "trainer.eval_max_batches=2", "trainer.per_device_eval_batch_size=3")
    assert by_batches.sources[0].eval_store.info.documents == 6


def test_two_evaluations_see_the_same_masks_whatever_the_seed(make: Make) -> None:
    one, two = (
        list(make(f"seed={seed}", "dataset.eval_split=train").val_dataloader()) for seed in (0, 1)
    )
    assert [batch_digest(batch) for batch in one] == [batch_digest(batch) for batch in two]


def test_a_batch_beyond_the_last_counts_for_nothing(make: Make) -> None:
    batches = make("trainer.per_device_eval_batch_size=4").val_dataloader().dataset
    beyond = batches[len(batches) + 1]
    assert beyond.num_targets == 0
    assert (beyond.labels == -100).all()
    assert torch.equal(beyond.inputs.input_ids, batches[len(batches) - 1].inputs.input_ids)


def test_changed_text_makes_new_tokens_and_another_fingerprint(make: Make, tmp_path: Path) -> None:
    draw = random.Random(1)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(draw.choices(["river", "oil"], k=9)) for _ in range(30)))
    first = make(path=path).fingerprint()
    assert make(path=path).fingerprint() == first
    path.write_text(path.read_text() + "\nriver river\n")
    second = make(path=path).fingerprint()
    assert second["dataset"] != first["dataset"]


@pytest.mark.parametrize("key", ["train", "validation"])
def test_a_stream_whose_text_changed_is_read_anew_and_known_as_another(
    make: Make, tmp_path: Path, key: str
) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text("river oil coal\n" * 30)
    words = ("dataset.streaming=true", "dataset.eval_samples=20")
    first = make(*words, path=tmp_path)
    (tmp_path / "README").write_text("is no text of the data set")
    assert make(*words, path=tmp_path).fingerprint() == first.fingerprint()
    (tmp_path / f"{key}.txt").write_text("river coal oil\n" * 30)  # as many bytes
    second = make(*words, path=tmp_path)
    parts = zip(second.fingerprint()["dataset"], first.fingerprint()["dataset"], strict=True)
    assert [after != before for after, before in parts] == [key == "train"] * 2  # name, tokens
    stores = [one.sources[0].eval_store.info for one in (first, second)]
    assert (stores[0] != stores[1]) == (key == "validation")


LAST_STAGE = (
    "dataset.max_seq_length=64",
    "model.max_position_embeddings=64",
    "model.rope_theta=4e4",
)


@pytest.mark.proves("dataset.filter_by_length", "trainer.accept_changes", "model.rope_theta")
def test_a_longer_context_stage_goes_on_from_a_checkpoint(
    tiny_run: Callable[..., Path],
) -> None:
    first = tiny_run("model.max_position_embeddings=32", folder="short")
    words = (
        *LAST_STAGE,
        "dataset.filter_by_length=true",
        "dataset.min_length=10",
        "trainer.max_steps=6",
        f"trainer.resume_from_checkpoint={first / 'checkpoints' / '4'}",
    )
    with pytest.raises(ConfigError, match=r"dataset\.max_seq_length differs .*\(32 -> 64\)"):
        tiny_run(*words, folder="long")
    second = tiny_run(*words, "trainer.accept_changes=[all]", folder="long")
    assert (second / "checkpoints" / "6" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("[10-20,15-25]", "10-20 and 15-25 overlap"),
        ("[15-25,10-15]", "10-15 and 15-25 overlap"),
        ("[20-10]", "'20-10' is not a span"),
        ("['7']", "'7' is not a span"),
    ],
)
def test_spans_to_skip_are_checked(spans: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config([f"dataset.skip_steps={spans}"])


@pytest.mark.proves("dataset.skip_steps")
def test_steps_are_skipped_on_resume_by_one_key(tiny_run: Callable[..., Path]) -> None:
    digest_words = ("trainer.log_batch_digests=true", "trainer.max_steps=6")
    plain = tiny_run(*digest_words, folder="plain")
    resumed = tiny_run(
        *digest_words,
        "dataset.skip_steps=[3-4]",
        f"trainer.resume_from_checkpoint={plain / 'checkpoints' / '2'}",
        folder="skipping",
    )
    assert (resumed / "checkpoints" / "6").is_dir()
    whole = tiny_run("trainer.log_batch_digests=true", "trainer.max_steps=8", folder="whole")
    lines = (whole / "batches-0.csv").read_text().splitlines()[1:]
    found = (resumed / "batches-0.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in found] == [
        line.split(",")[1] for line in (lines[2], *lines[5:8])
    ]


@pytest.mark.proves("dataset.stream_readers")
def test_more_readers_than_documents_or_fewer_than_ranks_are_reported(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="neobert"):
        make("dataset.stream_readers=5")
    assert "dataset.stream_readers=5 has no effect" in caplog.text
    stream = ("dataset.streaming=true", "dataset.eval_samples=5")
    assert make(*stream).fingerprint()["dataset.stream_readers"] == 1
    data = make(*stream, "dataset.stream_readers=5")
    assert data.stream_batches().streams[0].readers == 5
    assert data.fingerprint()["dataset.stream_readers"] == 5
    with pytest.raises(ConfigError, match="stream_readers=64: the stream has only"):
        make(*stream, "dataset.stream_readers=64")
    monkeypatch.setenv("WORLD_SIZE", "6")
    with caplog.at_level("WARNING", logger="neobert"):
        make(*stream, "dataset.stream_readers=4")
    assert "3 of them read and tokenise each document; for a new run set" in caplog.text
    modules = ("tasks.pretraining.source_reader", "tasks.pretraining.source_data")
    for module in (*modules, "data.stream_readers"):  # a long stream
        monkeypatch.setattr(f"neobert.{module}.STREAM_SAMPLE", 10)
    assert make(*stream).fingerprint()["dataset.stream_readers"] == 64
    assert make(*stream, "dataset.shuffle_buffer_size=0").stream_batches().streams[0].readers == 1
    with pytest.raises(ConfigError, match=r"6 processes .* set dataset.stream_readers=66"):
        make(*stream, "dataset.stream_readers=4")


def test_too_few_files_that_cannot_be_split_are_reported_before_training(
    make: Make,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = gzip.compress((tiny_corpus / "corpus.txt").read_bytes())
    folder = tmp_path / "texts"
    folder.mkdir()
    for file in range(4):
        (folder / f"part-{file}.txt.gz").write_bytes(content)
    words = ("dataset.streaming=true", "dataset.stream_readers=8")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with caplog.at_level("WARNING", logger="neobert"):
        make(*words, path=folder)
    assert "read in" not in caplog.text
    (folder / "part-3.txt.gz").unlink()
    with caplog.at_level("WARNING", logger="neobert"):
        make(*words, path=folder)
    assert (
        "the stream's files can be read in 1 parts only, so each of the 4 processes" in caplog.text
    )
    assert "decompress them" in caplog.text
    assert "split them, or set dataset.pre_tokenize=true" in caplog.text
