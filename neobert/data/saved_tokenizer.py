"""Tokenizers in folders: beside weights, or where ``tokenizer.path`` says; checked before use."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from neobert.console import get_logger
from neobert.files import explaining, first_line, read_json
from neobert.text_tokenizer import bert_template, boundary_tokens, wraps_documents

log = get_logger(__name__)

FILE = "tokenizer.json"

SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What transformers reads beside it, where it exists."""

LARGEST_FILE = 2**29
"""Bytes of the largest ``tokenizer.json`` that is read; the largest published ones have 40 MB."""

SPARSE = 1 << 16
"""Ids that may be unused beside one for each token: the embedding needs a row for each id."""

LARGEST_EXPANSION = 1000
"""Characters that a normalizer may make of one."""

USUAL_NAMES = {
    "mask_token": ("[MASK]", "<mask>", "<|mask|>"),
    "pad_token": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>"),
    "unk_token": ("[UNK]", "<unk>", "<|unk|>"),
    "cls_token": ("[CLS]", "<cls>", "<s>"),
    "sep_token": ("[SEP]", "<sep>", "</s>"),
}
"""What special tokens are called, by their role, most common names first."""

SAME_ROLE = {"cls_token": "bos_token", "sep_token": "eos_token"}
"""A tokenizer that has the second role does not need the first."""


def saved_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in ``tokenizer/`` of a checkpoint, or in a published folder itself.

    Not through ``AutoTokenizer``, which runs code that the folder holds, or asks to. Raises
    ``ValueError`` if there is none, or if it cannot be used.
    """
    for place in (folder / "tokenizer", folder):
        if (place / FILE).is_file():
            return _read(place)
    raise ValueError(
        f"{folder} has no tokenizer/{FILE}: weights must come with their tokenizer (a fast one; "
        "slow tokenizers have no such file)"
    )


def check_tokenizer_file(file: Path) -> None:
    """Raise ``ValueError`` unless ``file`` is a ``tokenizer.json`` of a reasonable size.

    Some files would exhaust the memory or hang: one with the id 4,000,000,000, or with a normalizer
    that makes a million letters of one.
    """
    problem = f"{file}: cannot be used by tokenizers {tokenizers.__version__}"
    with explaining(lambda error: ValueError(f"{problem} ({first_line(error)})")):
        content = read_json(file, LARGEST_FILE)
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise ValueError("it is not the file of a tokenizer")
        check_ids(list(_ids(content)))
        _check_normalizer(content)
        Tokenizer.from_str(json.dumps(content))


def check_tokenizer_files(folder: Path) -> None:
    """Raise ``ValueError`` that names the file if one that transformers reads is damaged.

    A FIFO in place of one would block for ever.
    """
    if (folder / FILE).exists():
        check_tokenizer_file(folder / FILE)
    for file in (folder / name for name in (*SETTINGS_FILES, "config.json")):
        if not file.exists():
            continue
        try:
            content = read_json(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: cannot be read ({first_line(error)})") from error
        if not isinstance(content, dict):
            raise ValueError(f"{file}: is not a JSON object")


def tokenizer_settings_files(folder: Path) -> str:
    """The files that are to blame where a tokenizer with a sound ``tokenizer.json`` fails."""
    names = [name for name in SETTINGS_FILES if (folder / name).exists()]
    return f"{folder}/{' or '.join(names or [FILE])}"


def check_ids(ids: list[int]) -> None:
    """Raise ``ValueError`` if ids are missing, negative, or far apart."""
    if not ids:
        raise ValueError("it has no token")
    if min(ids) < 0 or max(ids) > 2 * len(ids) + SPARSE:
        odd = min(ids) if min(ids) < 0 else max(ids)
        raise ValueError(
            f"it has {len(ids)} tokens, but one with the id {odd}; an embedding needs a row for "
            "each id, so number them from 0 on"
        )


def adopt_usual_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """Give special tokens the roles that their names stand for, where a role is vacant.

    A ``tokenizer.json`` without ``tokenizer_config.json`` has a ``[MASK]``, but no mask token.
    """
    vocabulary = tokenizer.get_vocab()
    adopted = {}
    for role, names in USUAL_NAMES.items():
        token = getattr(tokenizer, role) or getattr(tokenizer, SAME_ROLE.get(role, role))
        name = next((name for name in names if name in vocabulary), None)
        if token is None and name is not None:
            adopted[role] = name
    if adopted:
        tokenizer.add_special_tokens(dict(adopted))
        roles = ", ".join(f"{role}={name}" for role, name in adopted.items())
        log.info("%s: special tokens by their names: %s", tokenizer.name_or_path, roles)


def wrap_documents(tokenizer: PreTrainedTokenizerFast) -> None:
    """Give the tokenizer a post-processor that opens and closes documents as training does.

    Else whoever uses a tokenizer without one by itself, such as an exported model's, gives the
    model other input than it was trained on.
    """
    if wraps_documents(tokenizer):
        return
    tokenizer.backend_tokenizer.post_processor = bert_template(tokenizer)
    start, end = boundary_tokens(tokenizer)
    log.info("the tokenizer opens documents with %s and closes them with %s now", start, end)


def _read(place: Path) -> PreTrainedTokenizerFast:
    check_tokenizer_files(place)
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(place)
        adopt_usual_tokens(tokenizer)
        wrap_documents(tokenizer)
    except Exception as error:  # whatever an odd tokenizer_config.json leads to
        raise ValueError(
            f"{tokenizer_settings_files(place)}: cannot be used ({first_line(error)})"
        ) from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{place}: the tokenizer has no pad token")
    return tokenizer


def _ids(content: dict) -> Iterator[int]:  # type: ignore[type-arg]
    vocab = content["model"]["vocab"]
    yield from vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    for entry in content.get("added_tokens") or []:
        yield entry["id"]


def _check_normalizer(content: dict) -> None:  # type: ignore[type-arg]
    """Replacements follow one another, so their factors multiply."""
    normalizer = content.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    factor = math.prod(max(1, len(str(step.get("content") or ""))) for step in steps)
    if factor > LARGEST_EXPANSION:
        raise ValueError(f"its normalizer makes up to {factor:,} characters of one")
