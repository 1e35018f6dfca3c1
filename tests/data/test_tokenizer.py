import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from neobert.config.tokenizer import TokenizerConfig
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.data.tokenizer import TokenizerInfo, load_tokenizer, tokenizer_folder
from neobert.data.wordpiece import train_wordpiece
from neobert.errors import ConfigError


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
    assert (ids[0], ids[-1]) == (found.text.start_id, found.text.end_id)


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


def test_a_word_of_a_megabyte_does_not_hang_the_training(info: TokenizerInfo) -> None:
    texts = ["river oil coal"] * 30
    expected = train_wordpiece(lambda: texts, 90).get_vocab()
    letters = "aceilorv" * 100_000
    assert train_wordpiece(lambda: [*texts, letters], 90).get_vocab() == expected


def test_special_tokens_written_in_a_text_are_text(info: TokenizerInfo) -> None:
    ids, _ = info.text.encode(["[MASK] river"])
    assert info.mask_token_id not in ids


@pytest.mark.parametrize(
    ("special", "roles"),
    [
        (
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
            ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"],
        ),
        (
            ["<pad>", "<unk>", "<s>", "</s>", "<mask>"],
            ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"],
        ),
    ],
)
def test_a_bare_tokenizer_json_has_its_special_tokens_by_their_names(
    tmp_path: Path, special: list[str], roles: list[str]
) -> None:
    words = {word: number for number, word in enumerate([*special, "river", "oil"])}
    core = Tokenizer(models.WordLevel(words, unk_token=special[1]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(special)
    core.save(str(tmp_path / "tokenizer.json"))
    found = load_tokenizer(TokenizerConfig(path=str(tmp_path)))
    assert [getattr(found.tokenizer, role) for role in roles] == special
    assert found.real_vocab_size == len(words)  # nothing was added
    assert found.text.documents(["river oil"]) == [[2, 5, 6, 3]]
    assert saved_tokenizer(tmp_path).mask_token == special[4]


def test_a_saved_tokenizer_wraps_documents_as_training_does(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    config = plain(tmp_path / "bare", mask_token="[MASK]", cls_token="[CLS]", sep_token="[SEP]")
    info = load_tokenizer(config)
    assert info.tokenizer("river")["input_ids"] == info.text.documents(["river"])[0]
    info.tokenizer.save_pretrained(tmp_path / "saved")
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    assert again("river")["input_ids"] == info.text.documents(["river"])[0]
    assert load_tokenizer(TokenizerConfig(path=str(tmp_path / "saved"))).fingerprint == (
        info.fingerprint
    )


def test_a_tokenizer_that_was_saved_without_a_template_gets_one(tmp_path: Path) -> None:
    plain(tmp_path, mask_token="[MASK]", pad_token="[PAD]", bos_token="[CLS]", eos_token="[SEP]")
    found = saved_tokenizer(tmp_path)
    river, cls, sep = found.convert_tokens_to_ids(["river", "[CLS]", "[SEP]"])
    assert found("river")["input_ids"] == [cls, river, sep]


def changed(core: dict, damage: str) -> object:  # type: ignore[type-arg]
    model, entry = core["model"], core["added_tokens"][0]
    match damage:
        case "another version":
            model.clear()
            model["type"] = "Sentence"
        case "a huge id":
            entry["id"] = 4_000_000_000
        case "a large id":
            model["vocab"]["river"] = 90_000_000
        case "a negative id":
            model["vocab"]["river"] = -1
        case "a list":
            return [core]
        case "a nested list":
            return None
        case "an odd regular expression":
            core["pre_tokenizer"] = {
                "type": "Split",
                "pattern": {"Regex": "(("},
                "behavior": "Isolated",
                "invert": False,
            }
        case "a normalizer that explodes":
            step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
            core["normalizer"] = {"type": "Sequence", "normalizers": [step] * 3}
    return core


@pytest.mark.parametrize(
    "damage",
    [
        "another version",
        "a huge id",
        "a large id",
        "a negative id",
        "a list",
        "null",
        "nested",
        "cut off",
        "an odd regular expression",
        "a normalizer that explodes",
    ],
)
def test_a_bad_tokenizer_file_is_one_line_with_file_and_key(folder: Path, damage: str) -> None:
    file = folder / "tokenizer.json"
    text = file.read_text()
    texts = {"null": "null", "nested": "[" * 200_000, "cut off": text[: len(text) // 2]}
    file.write_text(texts.get(damage) or json.dumps(changed(json.loads(text), damage)))
    with pytest.raises(ConfigError, match=r"tokenizer\.path.*tokenizer\.json") as raised:
        load_tokenizer(TokenizerConfig(path=str(folder)))
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        saved_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer_config.json", '{"pad_token": '),
        ("tokenizer_config.json", "[" * 100_000),
        ("tokenizer_config.json", '{"pad_token": 7}'),
        ("tokenizer_config.json", None),  # a FIFO, which would block for ever
        ("special_tokens_map.json", "[1]"),
        ("special_tokens_map.json", '{"pad_token": ["[PAD]"]}'),
        ("added_tokens.json", "null"),
        ("config.json", ""),
    ],
)
def test_a_bad_file_beside_it_is_one_line_with_that_file(
    folder: Path, name: str, text: str | None
) -> None:
    (folder / name).unlink(missing_ok=True)
    if text is None:
        os.mkfifo(folder / name)
    else:
        (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"tokenizer\.path: .*{re.escape(name)}: ") as raised:
        load_tokenizer(TokenizerConfig(path=str(folder)))
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=re.escape(name)):
        saved_tokenizer(folder)


def test_a_file_instead_of_its_folder_is_told_with_the_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match=rf"tokenizer\.path={folder}$"):
        load_tokenizer(TokenizerConfig(path=str(folder / "tokenizer.json")))


def test_a_checkpoint_or_a_run_gives_its_tokenizer(
    info: TokenizerInfo, folder: Path, tmp_path: Path
) -> None:
    for step in (900, 1000):
        (tmp_path / f"run/checkpoints/{step}").mkdir(parents=True)
    newest = tmp_path / "run/checkpoints/1000"
    shutil.copytree(folder, newest / "tokenizer")
    for path in (newest, tmp_path / "run"):
        assert load_tokenizer(TokenizerConfig(path=str(path))).fingerprint == info.fingerprint
        assert tokenizer_folder(str(path)) == newest / "tokenizer"
    shutil.copytree(folder, tmp_path / "run/checkpoints/900/tokenizer")
    assert tokenizer_folder(str(tmp_path / "run")) == newest / "tokenizer"


def test_a_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_tokenizer(TokenizerConfig(path="~/tokenizer")).mask_token_id is not None
