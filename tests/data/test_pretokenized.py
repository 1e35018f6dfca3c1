import json
from pathlib import Path

import pytest

from neobert.config.dataset import DatasetConfig
from neobert.data.pretokenized import check_tokenizer, pre_tokenized
from neobert.data.sources import Source, open_source
from neobert.data.tokenize import tokens_of
from neobert.data.tokenizer import TokenizerInfo, describe_tokenizer
from neobert.data.wordpiece import train_wordpiece
from neobert.errors import ConfigError


@pytest.fixture
def source(tmp_path: Path, texts: list[str]) -> Source:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(texts))
    settings = DatasetConfig(path=str(file), streaming=False, eval_samples=20)
    return open_source(settings, tmp_path / "cache", seed=0)


def all_ids(source: Source, info: TokenizerInfo) -> list[list[int]]:
    assert source.evaluation is not None
    return [
        tokens.tolist()
        for documents in (source.train, source.evaluation)
        for tokens, _ in tokens_of(documents, info)
    ]


@pytest.mark.proves("dataset.pre_tokenize", "dataset.pre_tokenize_output")
@pytest.mark.parametrize("named", [True, False])
def test_ids_from_the_folder_are_those_of_the_text(
    source: Source, info: TokenizerInfo, tmp_path: Path, named: bool
) -> None:
    output = str(tmp_path / "ids") if named else None
    first = pre_tokenized(source, info, tmp_path, output, 1)
    assert first.train.tokenized
    assert all_ids(first, info) == all_ids(source, info)
    again = pre_tokenized(source, info, tmp_path, output, 1)
    assert again.train.key == first.train.key


def test_another_run_reads_the_folder_as_its_data_set(
    source: Source, info: TokenizerInfo, tmp_path: Path
) -> None:
    pre_tokenized(source, info, tmp_path, str(tmp_path / "ids"), 1)
    settings = DatasetConfig(path=str(tmp_path / "ids"))
    other = open_source(settings, tmp_path / "other-cache", seed=0)
    assert other.train.tokenized
    assert all_ids(other, info) == all_ids(source, info)
    check_tokenizer(tmp_path / "ids", info)


def test_a_stale_folder_is_refused_with_what_differs(
    source: Source, info: TokenizerInfo, tmp_path: Path
) -> None:
    output = str(tmp_path / "ids")
    pre_tokenized(source, info, tmp_path, output, 1)
    other = describe_tokenizer(train_wordpiece(lambda: ["quite other words"], 64), "other")
    with pytest.raises(ConfigError, match=rf"dataset\.pre_tokenize_output=.*{other.fingerprint}"):
        pre_tokenized(source, other, tmp_path, output, 1)
    file = tmp_path / "text.txt"
    file.write_text(file.read_text() + "\none more\n")
    changed = open_source(
        DatasetConfig(path=str(file), streaming=False, eval_samples=20), tmp_path / "cache", 0
    )
    with pytest.raises(ConfigError, match=r"made from other data or settings \(train\.source: "):
        pre_tokenized(changed, info, tmp_path, output, 1)


def test_a_folder_with_something_else_in_it_is_left_alone(
    source: Source, info: TokenizerInfo, tmp_path: Path
) -> None:
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="does not exist yet"):
        pre_tokenized(source, info, tmp_path, str(tmp_path / "ids"), 1)
    assert (tmp_path / "ids" / "thesis.tex").read_text() == "years of work"


def test_another_tokenizer_than_the_folders_is_refused(
    source: Source, info: TokenizerInfo, tmp_path: Path
) -> None:
    pre_tokenized(source, info, tmp_path, str(tmp_path / "ids"), 1)
    other = describe_tokenizer(train_wordpiece(lambda: ["quite other words"], 64), "other")
    with pytest.raises(ConfigError, match=r"tokenizer\.path=.*ids/tokenizer is the one"):
        check_tokenizer(tmp_path / "ids", other)


def test_the_recipe_is_beside_the_ids(source: Source, info: TokenizerInfo, tmp_path: Path) -> None:
    pre_tokenized(source, info, tmp_path, str(tmp_path / "ids"), 1)
    recipe = json.loads((tmp_path / "ids" / "pre_tokenized.json").read_text())
    assert recipe["tokenizer"] == info.fingerprint
    assert (tmp_path / "ids" / "tokenizer" / "tokenizer.json").is_file()
