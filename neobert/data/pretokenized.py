"""``dataset.pre_tokenize``: an Arrow folder of ids that any run can read, on any machine.

::

    train/  validation/    column input_ids, special tokens not among them (datasets: save_to_disk)
    tokenizer/             what the ids mean
    pre_tokenized.json     what it was made from

The folder is used again only while ``pre_tokenized.json`` says what this run would write into it;
else the run ends with an error that names the differences. Another run may also name the folder as
its ``dataset.path``.
"""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, Sequence, Value, load_from_disk

from neobert.config.checks import ConfigError
from neobert.console import get_logger
from neobert.data.cache import key_of, publish
from neobert.data.sources import TOKEN_COLUMN, Documents, Source
from neobert.data.tokenize import tokens_of
from neobert.data.tokenizer import TokenizerInfo

log = get_logger(__name__)

RECIPE = "pre_tokenized.json"
VERSION = 1
FEATURES = Features({TOKEN_COLUMN: Sequence(Value("int32"))})


def pre_tokenized(
    source: Source, info: TokenizerInfo, cache: Path, output: str | None, num_proc: int
) -> Source:
    """``source`` as ids: from its folder, which is made if it is missing.

    Raises ``ConfigError`` if ``output`` holds something else.
    """
    recipe = _recipe(source, info)
    folder = Path(output).expanduser() if output else cache / "pre_tokenized" / key_of(recipe)
    _check(folder, recipe)

    def make(target: Path) -> None:
        log.info("dataset.pre_tokenize: writing %s", folder)
        _write(source, info, num_proc, target)
        (target / RECIPE).write_text(json.dumps(recipe, indent=1, ensure_ascii=False))

    publish(folder, make)
    log.info("pre-tokenised: %s", folder)
    return _read(folder, recipe, source)


def check_tokenizer(folder: Path, info: TokenizerInfo) -> None:
    """Raise ``ConfigError`` if ``folder`` was tokenised by another tokenizer than ``info``."""
    if not (folder / RECIPE).is_file():
        return
    made_with = json.loads((folder / RECIPE).read_text())["tokenizer"]
    if made_with != info.fingerprint:
        raise ConfigError(
            f"dataset.path={folder} was tokenised by another tokenizer than {info.name}; "
            f"tokenizer.path={folder}/tokenizer is the one "
            "(tokenizer.train_vocab_size=null beside it)"
        )


def _recipe(source: Source, info: TokenizerInfo) -> dict[str, object]:
    """Everything that the content of the folder depends on, as it comes back from JSON."""
    recipe = {
        "version": VERSION,
        "train": source.train.key,
        "validation": None if source.evaluation is None else source.evaluation.key,
        "tokenizer": info.fingerprint,
    }
    back: dict[str, object] = json.loads(json.dumps(recipe))
    return back


def _check(folder: Path, recipe: dict[str, object]) -> None:
    if not folder.exists():
        return
    if not (folder / RECIPE).is_file():
        raise ConfigError(
            f"dataset.pre_tokenize_output={folder}: holds something that was not written by "
            "dataset.pre_tokenize; name a folder that does not exist yet"
        )
    found = json.loads((folder / RECIPE).read_text())
    stale = [part for part in recipe if found.get(part) != recipe[part]]
    if stale:
        was = "; ".join(f"{part}: {found.get(part)} -> {recipe[part]}" for part in stale)
        raise ConfigError(
            f"dataset.pre_tokenize_output={folder}: was made from other data or settings "
            f"({was}); name another folder, or delete this one to have it made anew"
        )


def _write(source: Source, info: TokenizerInfo, num_proc: int, target: Path) -> None:
    splits = {"train": source.train, "validation": source.evaluation}
    building = target / "building"
    made = {
        name: Dataset.from_generator(
            lambda documents=documents: _rows(documents, info, num_proc),
            features=FEATURES,
            cache_dir=str(building),
            fingerprint=key_of(documents.key),
        )
        for name, documents in splits.items()
        if documents is not None
    }
    DatasetDict(made).save_to_disk(str(target))
    info.tokenizer.save_pretrained(target / "tokenizer")
    shutil.rmtree(building)


def _rows(
    documents: Documents, info: TokenizerInfo, num_proc: int
) -> Iterator[dict[str, np.ndarray]]:
    for tokens, lengths in tokens_of(documents, info, num_proc):
        for ids in np.split(tokens.astype(np.int32), np.cumsum(lengths)[:-1]):
            yield {TOKEN_COLUMN: ids}


def _read(folder: Path, recipe: dict[str, object], source: Source) -> Source:
    def documents(split: str, origin: Documents) -> Documents:
        key: dict[str, object] = {"pre_tokenized": recipe, "split": split}
        read = partial(_ids, folder / split)
        return Documents(str(folder), key, read, origin.explain, tokenized=True)

    held_out = source.evaluation
    return Source(
        documents("train", source.train),
        None if held_out is None else documents("validation", held_out),
    )


def _ids(folder: Path) -> Iterator[object]:
    for batch in load_from_disk(str(folder)).iter(batch_size=1000):
        yield from batch[TOKEN_COLUMN]
