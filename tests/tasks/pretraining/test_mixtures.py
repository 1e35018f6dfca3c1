"""Runs on a mixture of sources: shares, epochs, evaluation, and exact resume."""

import csv
import json
import math
import random
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors.torch import load_file

from neobert.batch import MaskedBatch
from neobert.config.compose import compose_config
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.errors import ConfigError
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.tools.inspect_data import batches_of_step, inspect, read_command

SOURCES = {"web": "river", "wiki": "mountain", "books": "island"}
"""Each source's documents are a number and its word."""

DOCUMENTS = {"web": 60, "wiki": 40, "books": 20}
MIXTURE = (
    "dataset.mixture={{web: {{path: {0}/web.txt, weight: 0.6}},"
    " wiki: {{path: {0}/wiki.txt, weight: 0.3}}, books: {{path: {0}/books.txt, weight: 0.1}}}}"
)
COMMON = (
    "dataset.num_workers=0",
    "dataset.max_seq_length=12",
    "dataset.streaming=false",
    "datacollator.mlm_probability=0",
    "tokenizer.train_vocab_size=200",
    "trainer.per_device_train_batch_size=3",
    "trainer.gradient_accumulation_steps=2",
    "trainer.max_steps=20",
)
STAGES = "stages=[{until: 50%}, {mixture: {web: 0.2, books: 0.8}}]"
KINDS = {
    "packed": ("datacollator.pack_sequences=true",),
    "unpacked": (),
    "stream": (
        "dataset.streaming=true",
        "dataset.shuffle_buffer_size=10",
        "dataset.stream_readers=2",
        "dataset.eval_samples=5",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name, word in SOURCES.items():
        lines = [f"{word} n{number} {word} of {word}" for number in range(DOCUMENTS[name])]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def data_of(folder: Path, *settings: str) -> PretrainingDataModule:
    cache = f"dataset.cache_dir={folder / 'cache'}"
    words = [MIXTURE.format(folder), *COMMON, cache, *settings]
    data = PretrainingDataModule(compose_config(words))
    data.setup("fit")
    return data


def rows_of(batch: MaskedBatch, data: PretrainingDataModule) -> list[str]:
    """The text of each row."""
    decode, ids = data.tokenizer.tokenizer.decode, batch.inputs.input_ids.tolist()
    length = batch.inputs.row_length
    bounds = range(0, len(ids) + 1, length) if length else batch.inputs.cu_seqlens.tolist()
    return [decode(ids[a:b]) for a, b in pairwise(bounds)]


def source_of(row: str) -> str:
    (name,) = (name for name, word in SOURCES.items() if word in row)
    return name


@pytest.mark.proves("dataset.mixture", "stages")
@pytest.mark.parametrize("kind", KINDS)
def test_the_share_of_each_source_is_within_one_row_at_every_step(folder: Path, kind: str) -> None:
    data = data_of(folder, STAGES, *KINDS[kind])
    seen: Counter[str] = Counter()
    wanted = dict.fromkeys(SOURCES, 0.0)
    documents: dict[str, list[str]] = {name: [] for name in SOURCES}
    for number, batch in enumerate(data.train_dataloader()):
        weights = (0.6, 0.3, 0.1) if number < 20 else (0.2, 0.0, 0.8)
        for row in rows_of(batch, data):
            seen[source_of(row)] += 1
            documents[source_of(row)] += [word for word in row.split() if word.startswith("n")]
        for name, weight in zip(SOURCES, weights, strict=True):
            wanted[name] += 3 * weight
            # Streams deal the rows of a step, which ends with every second micro-batch, to readers.
            limit = 2 if kind == "stream" and number % 2 == 0 else 1
            assert abs(seen[name] - wanted[name]) < limit + 1e-9
    assert sum(seen.values()) == 120
    # Each source is read through before any of its documents comes again.
    for name, numbers in documents.items():
        held_out = 5 if kind == "stream" else 0
        epoch = numbers[: DOCUMENTS[name] - held_out - (2 if kind == "stream" else 0)]
        assert len(set(epoch)) == len(epoch) > 10


@pytest.mark.parametrize("kind", ["packed", "stream"])
def test_two_ranks_compute_the_rows_of_one(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = ("dataset.crop_min_length=3", STAGES, *KINDS[kind])
    one, steps = data_of(folder, "trainer.per_device_train_batch_size=6", *crop), (0, 9, 10, 13)
    alone = [batches_of_step(one, step)[0] for step in steps]
    monkeypatch.setenv("WORLD_SIZE", "2")
    two = data_of(folder, *crop)
    for step, whole in zip(steps, alone, strict=True):
        first, second = batches_of_step(two, step)
        for parts in zip(whole, first, second, strict=True):
            rows, *of_ranks = (rows_of(batch, two) for batch in parts)
            assert rows[::2] == of_ranks[0]
            assert rows[1::2] == of_ranks[1]


@pytest.mark.parametrize("kind", ["unpacked", "stream"])
def test_the_source_of_each_row_is_shown(folder: Path, kind: str) -> None:
    words = [MIXTURE.format(folder), *COMMON, STAGES, f"dataset.cache_dir={folder / 'cache'}"]
    words += KINDS[kind]
    lines = list(inspect(*read_command(["--step", "12", "--rows", "3", *words])))
    (shown, _) = [line for line in lines if "sources:" in line]
    names = shown.partition(": ")[2].split(", ")
    data = data_of(folder, STAGES, *KINDS[kind])
    rows = rows_of(batches_of_step(data, 12)[0][0], data)
    assert names == [source_of(row) for row in rows]


@pytest.mark.proves("dataset.mixture_temperature")
def test_without_weights_shares_are_by_tokens_to_the_power_of_the_temperature(
    folder: Path,
) -> None:
    sizes = "dataset.mixture={{web: {{path: {0}/web.txt}}, books: {{path: {0}/books.txt}}}}"
    by_size = data_of(folder, sizes.format(folder))
    tokens = [source.train_store.info.tokens for source in by_size.sources]
    share = tokens[0] / sum(tokens)
    assert by_size.shares(by_size.config) == pytest.approx((share, 1 - share))
    flat = data_of(
        folder,
        sizes.format(folder),
        "dataset.mixture_temperature=0.5",
        "stages=[{until: 50%}, {mixture_temperature: 0.0}]",
    )
    root = tokens[0] ** 0.5 / (tokens[0] ** 0.5 + tokens[1] ** 0.5)
    assert flat.shares(flat.stages[0].config) == pytest.approx((root, 1 - root))
    assert flat.shares(flat.stages[1].config) == (0.5, 0.5)
    with pytest.raises(ConfigError, match="the size of a stream is unknown"):
        data_of(folder, sizes.format(folder), *KINDS["stream"])


def test_sources_that_exceed_their_epochs_are_told_before_training(folder: Path) -> None:
    limits = ("dataset.mixture.wiki.max_epochs=0.5", "dataset.mixture.web.max_epochs=1")
    with pytest.raises(ConfigError) as error:
        data_of(folder, *limits)
    assert [line.partition(":")[0] for line in error.value.problems] == [
        "dataset.mixture.web.max_epochs=1",
        "dataset.mixture.wiki.max_epochs=0.5",
    ]
    assert (
        "takes 1.20 epochs of web; set it to 2, lower dataset.mixture.web.weight to about 0.5"
        in (error.value.problems[0])
    )
    assert "0.5 and raise the others, so that they sum to 1 again" in error.value.problems[0]
    assert "trainer.max_steps=16" in error.value.problems[0]
    data_of(folder, limits[1], "trainer.max_steps=16")
    data_of(folder, limits[1], "dataset.mixture.web.weight=0.5", "dataset.mixture.books.weight=0.2")


def test_a_long_stream_ends_with_its_epochs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neobert.tasks.pretraining.source_data.STREAM_SAMPLE", 10)
    data = data_of(folder, *KINDS["stream"], "dataset.mixture.web.max_epochs=1")
    with pytest.raises(
        ConfigError, match=r"dataset.mixture.web.max_epochs=1: the run has read all"
    ):
        list(data.train_dataloader())


def test_the_problems_of_all_sources_are_told_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        data_of(
            folder,
            f"dataset.mixture={{a: {{path: {folder}/none.txt}}, b: {{path: {folder}/web.txt,"
            " text_column: body}, c: {name: factbook, config: en}}",
        )
    problems = error.value.problems
    assert [line.partition("=")[0] for line in problems] == [
        "dataset.mixture.a.path",
        "dataset.mixture.b.text_column",
        "dataset.mixture.c.config",
    ]
    streams = (*KINDS["stream"], "dataset.mixture.c={name: factbook, weight: 0}")
    with pytest.raises(ConfigError, match="web, wiki, books would be streamed, c cannot be"):
        data_of(folder, *streams)


def test_a_tokenizer_is_trained_on_all_sources(folder: Path) -> None:
    vocabulary = data_of(folder).tokenizer.tokenizer.get_vocab()
    assert set(SOURCES.values()) <= set(vocabulary)


@pytest.mark.proves("dataset.stream_readers")
def test_what_ranks_cannot_do_with_a_stream_is_reported_with_its_source(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    words = (*KINDS["stream"], "dataset.stream_readers=32")
    with caplog.at_level("WARNING", logger="neobert"):
        data = data_of(folder, *words)
    # Of 55, 35 and 15 documents: short sources have fewer readers, which is no warning.
    assert data.fingerprint()["dataset.stream_readers"] == {"web": 32, "wiki": 32, "books": 1}
    assert "is not a multiple" not in caplog.text
    modules = ("tasks.pretraining.source_reader", "tasks.pretraining.source_data")
    for module in (*modules, "data.stream_readers"):
        monkeypatch.setattr(f"neobert.{module}.STREAM_SAMPLE", 30)
    with caplog.at_level("WARNING", logger="neobert"):
        data_of(folder, *words)
    assert "dataset.mixture.web: dataset.stream_readers=32 is not a multiple of" in caplog.text
    assert "dataset.mixture.books" not in caplog.text
    monkeypatch.setenv("WORLD_SIZE", "40")
    with pytest.raises(ConfigError) as error:
        data_of(folder, *words)
    assert [line.partition(": ")[0] for line in error.value.problems] == [
        "dataset.mixture.web",
        "dataset.mixture.wiki",
    ]
    assert "set dataset.stream_readers=80" in error.value.problems[0]


RUN = (
    "datacollator.mlm_probability=0.3",
    "datacollator.eval_mlm_probabilities=[0.5]",
    "datacollator.mlm_schedule={0%: 0.4, 100%: 0.1}",
    "datacollator.pack_sequences=true",
    "dataset.crop_min_length=3",
    "trainer.max_steps=8",
    "trainer.save_steps=1",
    "trainer.save_total_limit=0",
    "trainer.eval_steps=8",
    "trainer.log_batch_digests=true",
)
LONGER = "stages=[{until: 50%}, {max_seq_length: 20, gradient_accumulation_steps: 1,"
RUN_STAGES = LONGER + " mixture: {web: 0.2, books: 0.8}}]"


@pytest.fixture(scope="module", params=["packed", "stream"])
def mixed(request: pytest.FixtureRequest, folder: Path, tiny_run_module) -> tuple[Path, list[str]]:
    held_out = "dataset.validation_split=0.2"
    words = [*COMMON, MIXTURE.format(folder), held_out, *KINDS[request.param], *RUN, RUN_STAGES]
    return tiny_run_module(*words, folder=request.param), words


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_resumed_run_ends_with_the_same_weights(
    mixed: tuple[Path, list[str]], step: int, tiny_run_module
) -> None:
    run, words = mixed
    copy = run.with_name(f"{run.name}-{step}")
    shutil.copytree(run, copy)
    for folder in (copy / "checkpoints").iterdir():
        if int(folder.name) > step:
            shutil.rmtree(folder)
    tiny_run_module(*words, "trainer.resume_from_checkpoint=latest", folder=copy.name)
    assert (copy / "batches-0.csv").read_text() == (run / "batches-0.csv").read_text()
    one, other = (load_file(one / "checkpoints/8/model.safetensors") for one in (run, copy))
    assert all(one[name].equal(other[name]) for name in one)


def test_sources_are_evaluated_each_and_in_their_weighted_mean(
    mixed: tuple[Path, list[str]],
) -> None:
    summary = json.loads((mixed[0] / "summary.json").read_text())
    after, weights = summary["after"], {"web": 0.6, "wiki": 0.3, "books": 0.1}
    for end in ("", "@0.5"):
        for metric in ("loss", "bits_per_byte", "accuracy"):
            each = {name: after[f"eval/{metric}/{name}{end}"] for name in weights}
            mean = sum(weights[name] * value for name, value in each.items())
            assert after[f"eval/{metric}{end}"] == pytest.approx(mean)
            assert len(set(each.values())) > 1 or metric == "accuracy"
    assert after["eval/perplexity"] == pytest.approx(math.exp(after["eval/loss"]))
    with (mixed[0] / "metrics.csv").open() as file:
        assert {f"eval/loss/{name}" for name in weights} <= set(next(csv.reader(file)))


def test_other_weights_are_refused_on_resume(
    mixed: tuple[Path, list[str]], tiny_run_module
) -> None:
    run, words = mixed
    other = ("dataset.mixture.web.weight=0.5", "dataset.mixture.wiki.weight=0.4")
    resume = "trainer.resume_from_checkpoint=latest"
    with pytest.raises(ConfigError, match=r"dataset\.mixture differs from the checkpoint's"):
        tiny_run_module(*words, *other, resume, folder=run.name)


@pytest.mark.parametrize("vocabulary", [100, 400])
def test_bits_per_byte_are_those_of_the_definition(
    vocabulary: int, tiny_run, tmp_path: Path
) -> None:
    draw = random.Random(1)
    lines = [" ".join(draw.choices(["Fluß", "the", "north", "ice"], k=9)) for _ in range(40)]
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "train.txt").write_text("\n".join(lines[8:]) + "\n")
    (texts / "test.txt").write_text("\n".join(lines[:8]) + "\n")
    run = tiny_run(
        f"dataset.path={texts}",
        "dataset.validation_split=null",
        f"tokenizer.train_vocab_size={vocabulary}",
    )
    tokenizer = saved_tokenizer(run / "checkpoints/4")
    tokens = sum(len(tokenizer(line, add_special_tokens=False)["input_ids"]) for line in lines[:8])
    size = sum(len(line.encode()) for line in lines[:8])
    after = json.loads((run / "summary.json").read_text())["after"]
    expected = after["eval/loss"] * tokens / (size * math.log(2))
    assert after["eval/bits_per_byte"] == pytest.approx(expected)
