"""The program that prepares data beforehand."""

import json
from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.tools.prepare import main
from tests.tasks.contrastive.conftest import word_tokenizer

ROWS = [{"q": "the river", "a": "a long river"}, {"q": "the city", "a": "an old city"}]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    word_tokenizer().save_pretrained(tmp_path / "tokenizer")
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    return [
        "task=contrastive",
        "dataset.name=mine",
        f"contrastive.sources={{mine:{{path:{file},query:q,positive:a}}}}",
        "contrastive.allow_random_weights=true",
        f"tokenizer.path={tmp_path / 'tokenizer'}",
        "tokenizer.train_vocab_size=null",
        f"dataset.path={tmp_path / 'pairs'}",
    ]


def manifests(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "pairs").rglob("manifest.json"))


def test_tokens_and_manifest_lie_under_the_path(words: list[str], tmp_path: Path):
    assert main(words) == 0
    (manifest,) = manifests(tmp_path)
    assert json.loads(manifest.read_text())["pairs"] == 2
    assert (manifest.parent / "pairs.arrow").is_file()


@pytest.mark.proves("dataset.force_redownload")
def test_force_redownload_makes_anew_what_is_there(words: list[str], tmp_path: Path):
    main(words)
    (manifest,) = manifests(tmp_path)
    manifest.write_text(manifest.read_text().replace('"pairs": 2', '"pairs": 7'))
    main(words)
    assert json.loads(manifest.read_text())["pairs"] == 7  # what is there is taken
    assert main([*words, "dataset.force_redownload=true"]) == 0
    assert json.loads(manifest.read_text())["pairs"] == 2
    assert manifests(tmp_path) == [manifest]


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Settings of a pretraining run."""
    (tmp_path / "text.txt").write_text("\n".join(f"river oil {number}" for number in range(60)))
    return [
        "dataset=local",
        f"dataset.path={tmp_path / 'text.txt'}",
        f"dataset.cache_dir={tmp_path / 'cache'}",
        "tokenizer.train_vocab_size=80",
    ]


def test_a_run_finds_the_tokens_that_were_prepared(
    texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(texts) == 0
    assert "training: 59 documents" in capsys.readouterr().err
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")}
    data = PretrainingDataModule(compose_config(texts))
    data.setup("fit")
    assert data.sources[0].train_store.info.documents == 59
    assert before
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")}


def test_what_cannot_be_prepared_is_one_line(
    texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*texts, "dataset.streaming=true", "dataset.eval_samples=5"]) == 2
    assert "dataset.pre_tokenize=true" in capsys.readouterr().err
    assert main(["task=mteb"]) == 2
    assert "task=mteb: prepares its data" in capsys.readouterr().err


def test_wrong_settings_are_answered_in_a_line(words: list[str], capsys):
    assert main([*words, "dataset.name=nothing"]) == 2
    assert "dataset.name=nothing: is no source of pairs" in capsys.readouterr().err
