import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from neobert.config.checks import ConfigError
from neobert.config.tokenizer import TokenizerConfig
from neobert.data.tokenizer import TokenizerInfo, load_tokenizer, text_tokenizer


@pytest.fixture
def folder(info: TokenizerInfo, tmp_path: Path) -> Path:
    info.tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.mark.proves("tokenizer.path", "tokenizer.max_length")
def test_a_folder_gives_the_tokenizer_that_lies_there(info: TokenizerInfo, folder: Path) -> None:
    found = load_tokenizer(TokenizerConfig(path=str(folder), max_length=77))
    assert found.fingerprint == info.fingerprint
    assert found.tokenizer.model_max_length == 77


def test_the_vocabulary_is_rounded_up_with_inert_ids(info: TokenizerInfo, folder: Path) -> None:
    found = load_tokenizer(TokenizerConfig(path=str(folder)))
    assert found.real_vocab_size == len(info.tokenizer)
    assert found.vocab_size % 128 == 0
    assert found.is_special[found.real_vocab_size :].all()
    assert set(found.random_ids) == set(range(found.real_vocab_size)) - set(
        info.tokenizer.all_special_ids
    )


@pytest.mark.proves("tokenizer.vocab_size")
def test_a_size_that_is_asked_for_must_be_the_tokenizers(info: TokenizerInfo, folder: Path) -> None:
    config = TokenizerConfig(path=str(folder))
    for size in (None, info.real_vocab_size, info.vocab_size):
        load_tokenizer(replace(config, vocab_size=size))
    with pytest.raises(ConfigError, match=r"tokenizer\.vocab_size=30522 does not match"):
        load_tokenizer(replace(config, vocab_size=30522))


HUB = """
import sys
from neobert.config.tokenizer import TokenizerConfig
from neobert.data.tokenizer import load_tokenizer
for revision in (None, "v2"):
    print(load_tokenizer(TokenizerConfig(name="me/words", revision=revision)).real_vocab_size)
"""


@pytest.mark.proves("tokenizer.name", "tokenizer.revision")
def test_a_hub_id_and_its_revision_choose_what_is_loaded(folder: Path, tmp_path: Path) -> None:
    repo = tmp_path / "home" / "hub" / "models--me--words"
    for ref, commit in (("main", "a" * 40), ("v2", "b" * 40)):
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
        shutil.copytree(folder, repo / "snapshots" / commit)
        (repo / "snapshots" / commit / "config.json").write_text("{}")
    core = json.loads((folder / "tokenizer.json").read_text())
    core["model"]["vocab"]["onemore"] = len(core["model"]["vocab"])
    (repo / "snapshots" / ("b" * 40) / "tokenizer.json").write_text(json.dumps(core))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", HUB], env=environment, capture_output=True, text=True, check=True
    )
    first, second = map(int, done.stdout.split())
    assert second == first + 1


def test_what_cannot_be_reached_is_told_with_the_ways_out() -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.name=no/such.*tokenizer\.train_vocab_size"):
        load_tokenizer(TokenizerConfig(name="no/such"))
    with pytest.raises(ConfigError, match=r"tokenizer\.path=/no/such does not exist"):
        load_tokenizer(TokenizerConfig(path="/no/such"))


@pytest.mark.proves("tokenizer.train_vocab_size")
def test_a_trained_one_is_the_same_again_and_trained_once(
    make_texts: Callable[..., list[str]], tmp_path: Path
) -> None:
    config = TokenizerConfig(train_vocab_size=90)
    first = load_tokenizer(config, lambda: make_texts(50), "key", tmp_path / "one")
    again = load_tokenizer(config, lambda: make_texts(50), "key", tmp_path / "two")
    assert first.fingerprint == again.fingerprint
    assert first.real_vocab_size <= 90

    def never() -> list[str]:
        raise AssertionError("trained twice")

    assert load_tokenizer(config, never, "key", tmp_path / "one").fingerprint == first.fingerprint


def plain(folder: Path, **special: str) -> TokenizerConfig:
    """A tokenizer of whole words that has only these special tokens."""
    words = ["river", "oil", "[UNK]", *special.values()]
    core = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", **special).save_pretrained(
        folder
    )
    return TokenizerConfig(path=str(folder))


@pytest.mark.proves("tokenizer.allow_special_token_rewrite")
def test_one_without_a_mask_is_refused_or_gets_robertas_tokens(tmp_path: Path) -> None:
    config = plain(tmp_path)
    with pytest.raises(ConfigError, match=r"tokenizer\.allow_special_token_rewrite=true"):
        load_tokenizer(config)
    found = load_tokenizer(replace(config, allow_special_token_rewrite=True))
    assert found.tokenizer.mask_token == "<mask>"
    ids = found.tokenizer("river oil")["input_ids"]
    assert (ids[0], ids[-1]) == (found.start_id, found.end_id)


def test_one_without_padding_gets_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="neobert"):
        found = load_tokenizer(plain(tmp_path, mask_token="[MASK]"))
    assert found.tokenizer.pad_token == "<pad>"
    assert found.pad_token_id == found.real_vocab_size - 1
    assert "no pad token" in caplog.text
    assert found.wrapping == 0


CODE = """
from transformers import PreTrainedTokenizerFast

class Own(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.proves("tokenizer.trust_remote_code")
def test_code_of_a_tokenizer_runs_only_when_trusted(folder: Path) -> None:
    (folder / "own.py").write_text(CODE)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = TokenizerConfig(path=str(folder))
    with pytest.raises(ConfigError, match=r"tokenizer\.trust_remote_code=true"):
        load_tokenizer(config)
    trusted = load_tokenizer(replace(config, trust_remote_code=True))
    assert type(trusted.tokenizer).__name__ == "Own"


def test_special_tokens_written_in_a_text_are_text(info: TokenizerInfo) -> None:
    ids = text_tokenizer(info.tokenizer).encode("[MASK] river", add_special_tokens=False).ids
    assert info.mask_token_id not in ids
