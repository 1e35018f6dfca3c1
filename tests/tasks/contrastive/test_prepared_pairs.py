"""Pairs on disk: what is left out, what their key depends on, and what is taken as it is."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset

from neobert.errors import ConfigError, RunError
from neobert.tasks.contrastive import prepared_pairs
from neobert.tasks.contrastive.prepared_pairs import PAIRS, pair_encoder, prepare_sources
from tests.tasks.contrastive.conftest import encoder, write_jsonl

MARK = b"\xff\xff\xff\xff"
"""Begins each message of an Arrow stream."""

ROWS = [
    {"q": "the river", "a": "a long river", "n": ["the river", "a long river", "", "city"]},
    {"q": "  ", "a": "a city", "n": []},
    {"q": "the city", "a": None, "n": ["desert"]},
    {"q": "the forest", "a": "a green forest", "n": []},
]


@pytest.fixture
def own(settings, tmp_path: Path):
    """Settings on the four rows above."""
    file = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    source = f"{{own:{{path:{file},query:q,positive:a,negatives:['n[]']}}}}"
    return lambda *words: settings(f"contrastive.sources={source}", *words)


def rows_of(prepared) -> list[dict[str, object]]:
    return Dataset.from_file(str(prepared.folder / PAIRS)).to_list()


def test_empty_texts_and_negatives_equal_to_query_or_positive_are_left_out_and_counted(own, info):
    (prepared,) = prepare_sources(own(), encoder(info, 16))
    assert prepared.manifest["pairs"] == 2
    assert prepared.manifest["left_out"] == {
        "pairs with an empty text": 2,
        "negatives that are empty": 1,
        "negatives equal to their query or positive": 2,
    }
    river, forest = rows_of(prepared)
    ids = info.tokenizer.get_vocab()
    assert river["query"] == [2, ids["the"], ids["river"], 3]
    assert river["negatives"] == [[2, ids["city"], 3]]
    assert forest["negatives"] == []
    assert river["group"] != forest["group"]


@pytest.mark.proves("dataset.num_proc")
def test_several_processes_make_the_same_pairs(
    settings, info, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started: list[int] = []
    real = prepared_pairs.in_processes

    def spy(function, tasks, num_proc: int):
        started.append(num_proc)
        return real(function, tasks, num_proc)

    monkeypatch.setattr(prepared_pairs, "BATCH", 2)
    monkeypatch.setattr(prepared_pairs, "in_processes", spy)
    monkeypatch.setattr("neobert.data.processes.available_cores", lambda: 2)
    rows = [{"q": f"the river {n}", "a": "a city [MASK]", "n": ["city"] * n} for n in range(40)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    source = f"{{own:{{path:{file},query:q,positive:a,negatives:['n[]']}}}}"

    def made(number: int) -> tuple[object, list[dict[str, object]]]:
        words = (f"dataset.num_proc={number}", f"dataset.path={tmp_path / str(number)}")
        (found,) = prepare_sources(
            settings(f"contrastive.sources={source}", *words), encoder(info, 16)
        )
        return found.manifest, rows_of(found)

    assert made(1) == made(2)
    assert started == [1, 2]


def test_a_source_without_a_single_pair_is_one_clear_error(settings, info, tmp_path: Path):
    file = write_jsonl(tmp_path / "rows.jsonl", [{"q": "", "a": "x"}])
    config = settings(f"contrastive.sources={{own:{{path:{file},query:q,positive:a}}}}")
    with pytest.raises(ConfigError, match="source own: has no pair with text on both sides"):
        prepare_sources(config, encoder(info, 16))


@pytest.mark.proves("dataset.max_seq_length")
def test_longer_texts_are_cut_to_the_length_with_their_special_tokens(own, info):
    config = own("dataset.max_seq_length=4")
    (prepared,) = prepare_sources(config, pair_encoder(config, info))
    assert rows_of(prepared)[0]["positive"][::3] == [2, 3]
    with pytest.raises(ConfigError, match="leaves no room"):
        pair_encoder(replace_length(config, 2), info)


def replace_length(config, length: int):
    return replace(config, dataset=replace(config.dataset, max_seq_length=length))


@pytest.mark.proves("contrastive.query_prefix", "contrastive.document_prefix")
def test_prefixes_stand_before_queries_and_documents(own, info):
    config = own("contrastive.query_prefix='old '", "contrastive.document_prefix='the city '")
    (prepared,) = prepare_sources(config, pair_encoder(config, info))
    row, ids = rows_of(prepared)[0], info.tokenizer.get_vocab()
    assert row["query"][1] == ids["old"]
    assert row["positive"][1:3] == row["negatives"][0][1:3] == [ids["the"], ids["city"]]


@pytest.mark.proves("dataset.path")
def test_tokens_lie_below_the_path_under_a_key_of_source_tokenizer_and_settings(own, info):
    config = own()
    (first,) = prepare_sources(config, encoder(info, 16))
    assert first.folder.parent == Path(config.dataset.path) / "own"
    made = (first.folder / PAIRS).stat().st_mtime_ns
    (again,) = prepare_sources(config, encoder(info, 16))
    assert again.folder == first.folder
    assert (again.folder / PAIRS).stat().st_mtime_ns == made
    others = [
        encoder(info, 8),
        encoder(info, 16, "x "),
        encoder(replace(info, fingerprint="y"), 16),
    ]
    folders = {prepare_sources(config, other)[0].folder for other in others}
    assert len(folders | {first.folder}) == 4
    write_jsonl(Path(config.contrastive.sources["own"]["path"]), ROWS[3:])
    (changed,) = prepare_sources(config, encoder(info, 16))
    assert changed.folder != first.folder
    assert changed.manifest["pairs"] == 1


@pytest.mark.proves("dataset.load_all_from_disk")
def test_load_all_from_disk_takes_what_is_prepared_and_makes_nothing(own, info):
    from_disk = own("dataset.load_all_from_disk=true")
    with pytest.raises(
        ConfigError, match=r"has no own prepared with this tokenizer.*there are none"
    ):
        prepare_sources(from_disk, encoder(info, 16))
    (made,) = prepare_sources(own(), encoder(info, 16))
    Path(from_disk.contrastive.sources["own"]["path"]).unlink()  # the source is not needed any more
    (found,) = prepare_sources(from_disk, encoder(info, 16))
    assert (found.folder, found.manifest["pairs"]) == (made.folder, 2)
    everything = own("dataset.load_all_from_disk=true", "dataset.name=ALL")
    assert [one.name for one in prepare_sources(everything, encoder(info, 16))] == ["own"]
    with pytest.raises(ConfigError, match="there are none"):
        prepare_sources(from_disk, encoder(info, 8))


def test_an_interrupted_preparation_leaves_nothing_behind(own, info):
    config = own()
    file = Path(config.contrastive.sources["own"]["path"])
    file.write_text(file.read_text() + '{"q": "cut')
    with pytest.raises(ConfigError, match=r"rows\.jsonl, line 5: not valid JSON"):
        prepare_sources(config, encoder(info, 16))
    assert not [one for one in Path(config.dataset.path).rglob("*") if one.suffix != ".lock"][1:]


@pytest.mark.parametrize("damage", ["empty", "cut", "cut between batches", "flipped", "gone"])
def test_damaged_pairs_are_one_line_and_are_made_again(own, info, monkeypatch, damage: str):
    monkeypatch.setattr(prepared_pairs, "BATCH", 1)
    (made,) = prepare_sources(own(), encoder(info, 16))
    file, rows = made.folder / PAIRS, rows_of(made)
    content = file.read_bytes()
    batches = [place for place in range(8, len(content), 8) if content[place:].startswith(MARK)]
    damaged = {
        "empty": b"",
        "cut": content[: batches[1] + 16],
        "cut between batches": content[: batches[1]],
        "flipped": content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
    }
    if damage == "cut between batches":
        with pa.ipc.open_stream(damaged[damage]) as stream:
            assert len(stream.read_all()) == 1, "Arrow itself does not notice"
    file.unlink() if damage == "gone" else file.write_bytes(damaged[damage])
    with pytest.raises(RunError, match=r"own/\w+: damaged .*delete it, and the next run makes it"):
        prepare_sources(own(), encoder(info, 16))
    shutil.rmtree(made.folder)
    (again,) = prepare_sources(own(), encoder(info, 16))
    assert rows_of(again) == rows
