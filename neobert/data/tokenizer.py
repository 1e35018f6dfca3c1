"""The tokenizer of a run: loaded from the hub or a folder, or trained on the corpus, then checked.

Nothing is written back to the settings. What follows from the tokenizer (vocabulary, special ids,
fingerprint) is in :class:`TokenizerInfo`, which is passed on.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from neobert.config.overrides import pasteable
from neobert.config.tokenizer import TokenizerConfig
from neobert.console import get_logger
from neobert.data.cache import build_cached, key_of, opening
from neobert.data.saved_tokenizer import (
    FILE,
    adopt_usual_tokens,
    check_ids,
    check_tokenizer_files,
    tokenizer_settings_files,
    wrap_documents,
)
from neobert.data.wordpiece import train_wordpiece
from neobert.errors import ConfigError
from neobert.files import first_line, user_path
from neobert.text_tokenizer import TextTokenizer, bert_template, special_tokens

log = get_logger(__name__)

MULTIPLE = 128
"""The vocabulary is rounded up to it: matrix kernels like such sizes."""

ROBERTA = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """A checked tokenizer and what follows from it."""

    tokenizer: PreTrainedTokenizerFast
    name: str

    real_vocab_size: int
    """Ids of the tokenizer; those from here to ``vocab_size`` are inert: no text has them."""

    vocab_size: int
    """Rows of the embedding: ``real_vocab_size`` rounded up to a multiple of 128."""

    pad_token_id: int
    mask_token_id: int

    text: TextTokenizer = field(repr=False)
    """Turns text into ids, in the same way for every task."""

    is_special: NDArray[np.bool_] = field(repr=False)
    """By id, inert ones included: never masked, never drawn as a random replacement."""

    fingerprint: str
    """SHA-256 of the vocabulary and all rules, as ``tokenizers`` writes them."""

    @property
    def random_ids(self) -> NDArray[np.int64]:
        """Ids that may replace a masked token: neither special nor inert."""
        return np.flatnonzero(~self.is_special)

    @property
    def wrapping(self) -> int:
        """Tokens that opening and closing adds to each document: 0 to 2."""
        return self.text.overhead

    def info(self) -> dict[str, object]:
        """Content of ``tokenizer_info.json``."""
        return {
            "tokenizer_name": self.name,
            "vocab_size": self.vocab_size,
            "base_vocab_size": self.real_vocab_size,
            "total_vocab_size": self.vocab_size,
            "pad_token_id": self.pad_token_id,
            "fingerprint": self.fingerprint,
        }


def load_tokenizer(
    config: TokenizerConfig,
    texts: Callable[[], Iterable[str]] | None = None,
    data_key: object = None,
    cache: Path | None = None,
) -> TokenizerInfo:
    """Load ``tokenizer.path`` or ``.name``, or train one of ``.train_vocab_size`` on ``texts``.

    A trained one is kept in ``cache`` under a key of ``data_key`` and its settings, so ``texts`` is
    called the first time only. Raises ``ConfigError`` for a tokenizer that cannot be used.
    """
    if config.train_vocab_size is None:
        name = config.path or config.name
        tokenizer = _load(config, name)
    else:
        if texts is None or cache is None:
            raise ConfigError("tokenizer.train_vocab_size needs a corpus to train on")
        name = f"wordpiece-{config.train_vocab_size}"
        tokenizer = _trained(config.train_vocab_size, texts, data_key, cache)
    _complete_special_tokens(tokenizer, config)
    wrap_documents(tokenizer)
    tokenizer.model_max_length = config.max_length
    info = describe_tokenizer(tokenizer, name)
    size = config.vocab_size
    if size is not None and size not in (info.real_vocab_size, info.vocab_size):
        raise ConfigError(
            f"tokenizer.vocab_size={size} does not match {name}, which has "
            f"{info.real_vocab_size} tokens ({info.vocab_size} when rounded up to a multiple "
            f"of {MULTIPLE}); leave it null to take the tokenizer's"
        )
    return info


def describe_tokenizer(tokenizer: PreTrainedTokenizerFast, name: str) -> TokenizerInfo:
    """Derive sizes, special ids and fingerprint of a tokenizer that has its special tokens."""
    ids = set(tokenizer.get_vocab().values())
    try:
        check_ids(list(ids))
    except ValueError as error:
        raise ConfigError(f"the tokenizer {name}: {error}") from error
    real = max(ids) + 1
    rounded = -(-real // MULTIPLE) * MULTIPLE
    is_special = np.ones(rounded, dtype=bool)
    is_special[list(ids - _special_ids(tokenizer))] = False
    return TokenizerInfo(
        tokenizer=tokenizer,
        name=name,
        real_vocab_size=real,
        vocab_size=rounded,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        text=TextTokenizer.of(tokenizer),
        is_special=is_special,
        fingerprint=_fingerprint(tokenizer),
    )


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Ids that stand for no text, with a role or without one (``<|endoftext|>``)."""
    marked = special_tokens(json.loads(tokenizer.backend_tokenizer.to_str()))
    vocabulary = tokenizer.get_vocab()
    return {*tokenizer.all_special_ids, *(vocabulary[name] for name in marked)}


def _load(config: TokenizerConfig, name: str) -> PreTrainedTokenizerFast:
    key = "tokenizer.path" if config.path else "tokenizer.name"
    if config.path:
        name = str(tokenizer_folder(config.path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name,
            use_fast=True,
            revision=config.revision or "main",
            trust_remote_code=config.trust_remote_code,
        )
    except Exception as error:  # tokenizers raises bare Exception
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"{key}={name} comes with code of its own: read it, then allow it to run with "
                "tokenizer.trust_remote_code=true"
            ) from error
        if config.path and (Path(name) / FILE).exists():
            files = tokenizer_settings_files(Path(name))
            problem = f"tokenizer.path: {files}: cannot be used ({first_line(error)})"
            raise ConfigError(problem) from error
        raise ConfigError(
            f"{key}={name} could not be loaded ({first_line(error)}); name a hub id that can be "
            "reached, a folder (tokenizer.path), or train one (tokenizer.train_vocab_size=8192)"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(f"{key}={name} is a slow tokenizer; only fast ones are supported")
    return tokenizer


def tokenizer_folder(path: str) -> Path:
    """The folder of the tokenizer that ``tokenizer.path`` names, if its files can be used.

    That of a checkpoint is in its ``tokenizer/``; a run has those of its checkpoints.
    """
    folder = user_path(path)
    if folder.is_file():
        raise ConfigError(
            f"tokenizer.path={path} is a file; name its folder: "
            + pasteable("tokenizer.path", folder.parent)
        )
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"tokenizer.path={path} {state}")
    if not (folder / FILE).is_file():
        inner = [file.parent for file in folder.glob(f"checkpoints/*/tokenizer/{FILE}")]
        inner.sort(key=lambda place: (len(place.parent.name), place.parent.name))
        inner += [folder / "tokenizer"] if (folder / "tokenizer" / FILE).is_file() else []
        folder = inner[-1] if inner else folder
    try:
        check_tokenizer_files(folder)
    except ValueError as error:
        raise ConfigError(f"tokenizer.path: {error}") from error
    return folder


def _trained(
    vocab_size: int, texts: Callable[[], Iterable[str]], data_key: object, cache: Path
) -> PreTrainedTokenizerFast:
    recipe = {"data": data_key, "wordpiece": vocab_size, "version": 2}
    folder = cache / "tokenizers" / key_of(recipe)

    def train(target: Path) -> None:
        log.info("training a WordPiece vocabulary of %d on the corpus", vocab_size)
        train_wordpiece(texts, vocab_size).save_pretrained(target)

    build_cached(folder, train)
    with opening(folder):
        check_tokenizer_files(folder)
        return PreTrainedTokenizerFast.from_pretrained(folder)


def _complete_special_tokens(tokenizer: PreTrainedTokenizerFast, config: TokenizerConfig) -> None:
    """Check for a mask and a pad token; add what the settings allow to add, and log it."""
    adopt_usual_tokens(tokenizer)
    if tokenizer.mask_token_id is None:
        if not config.allow_special_token_rewrite:
            raise ConfigError(
                f"{tokenizer.name_or_path} has no mask token; "
                "tokenizer.allow_special_token_rewrite=true gives it RoBERTa's special tokens"
            )
        tokenizer.add_special_tokens(dict(ROBERTA))
        tokenizer.backend_tokenizer.post_processor = bert_template(tokenizer)
        log.warning("the tokenizer had no mask token: it now has %s", tokenizer.all_special_tokens)
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": ROBERTA["pad_token"]})
        log.warning("the tokenizer had no pad token: %s was added", tokenizer.pad_token)


def _fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_padding()
    core.no_truncation()
    special = f"{tokenizer.pad_token_id} {tokenizer.mask_token_id}"
    return sha256((core.to_str() + special).encode()).hexdigest()
