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
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, Sequence, Value, load_from_disk

from neobert.config.overrides import pasteable
from neobert.console import get_logger
from neobert.data.cache import build_cached, file_digests, key_of
from neobert.data.rows import TOKEN_COLUMN
from neobert.data.shards import make_store
from neobert.data.sources import Documents, Source
from neobert.data.token_store import TokenStore
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError
from neobert.files import first_line, read_json, reading, user_path, write_json

log = get_logger(__name__)

RECIPE = "pre_tokenized.json"
VERSION = 2
FEATURES = Features({TOKEN_COLUMN: Sequence(Value("int32"))})


def pre_tokenized(
    source: Source, info: TokenizerInfo, cache: Path, output: str | None, num_proc: int
) -> Source:
    """``source`` as ids: from its folder, which is made if it is missing.

    Raises ``ConfigError`` if ``output`` holds something else.
    """
    recipe = _recipe(source, info)
    folder = user_path(output) if output else cache / "pre_tokenized" / key_of(recipe)
    _check(folder, recipe)

    def make(target: Path) -> None:
        log.info("dataset.pre_tokenize: writing %s", folder)
        _write(source, info, num_proc, target, parts)
        write_json(recipe, target / RECIPE)

    # Kept where a killed run leaves them, so that the next one continues.
    parts = cache / "pre_tokenized" / f"{key_of(recipe)}-parts"
    build_cached(folder, make)
    shutil.rmtree(parts, ignore_errors=True)
    log.info("pre-tokenised: %s", folder)
    return _read(folder, recipe, source, cache)


def check_tokenizer(folder: Path, info: TokenizerInfo) -> None:
    """Raise ``ConfigError`` if ``folder`` was tokenised by another tokenizer than ``info``."""
    if not (folder / RECIPE).is_file():
        return
    if _recipe_in(folder, "dataset.path").get("tokenizer") != info.fingerprint:
        raise ConfigError(
            f"dataset.path={folder} was tokenised by another tokenizer than {info.name}; "
            f"{pasteable('tokenizer.path', folder / 'tokenizer')} is the one "
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


def _recipe_in(folder: Path, setting: str) -> Mapping[str, object]:
    with reading(folder / RECIPE, setting):
        recipe = read_json(folder / RECIPE)
        if not isinstance(recipe, dict):
            raise ValueError("it is not an object")
        return recipe


def _check(folder: Path, recipe: dict[str, object]) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / RECIPE).is_file():
        raise ConfigError(
            f"dataset.pre_tokenize_output={folder}: holds something that was not written by "
            "dataset.pre_tokenize; name a folder that does not exist yet"
        )
    stale = list(_differences(_recipe_in(folder, "dataset.pre_tokenize_output"), recipe))
    if stale:
        raise ConfigError(
            f"dataset.pre_tokenize_output={folder}: was made from other data or settings "
            f"({'; '.join(stale)}); name another folder, or delete this one to have it made again"
        )


def _differences(before: object, after: object, name: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from _differences(before.get(key), after.get(key), f"{name}.{key}".strip("."))
    elif before != after:
        yield f"{name}: {str(before)[:80]} -> {str(after)[:80]}"


def _write(source: Source, info: TokenizerInfo, num_proc: int, target: Path, parts: Path) -> None:
    splits = {"train": source.train, "validation": source.evaluation}
    building = target / "building"
    datasets = {}
    for name, documents in splits.items():
        if documents is None:
            continue
        of_split = replace(documents, name=f"{documents.name} ({name})")
        store = make_store(parts / name, of_split, info, num_proc)
        datasets[name] = Dataset.from_generator(
            _rows,
            gen_kwargs={"store": store},
            features=FEATURES,
            cache_dir=str(building),
            fingerprint=key_of(documents.key),
        )
    DatasetDict(datasets).save_to_disk(str(target))
    info.tokenizer.save_pretrained(target / "tokenizer")
    shutil.rmtree(building)


def _rows(store: TokenStore) -> Iterator[dict[str, np.ndarray]]:
    for number in range(store.info.documents):
        yield {TOKEN_COLUMN: store.document(number).astype(np.int32)}


def _read(folder: Path, recipe: dict[str, object], source: Source, cache: Path) -> Source:
    def documents(split: str) -> Documents:
        files = file_digests(sorted((folder / split).glob("*.arrow")), cache)
        key: dict[str, object] = {"pre_tokenized": recipe, "split": split, "files": files}
        read = partial(_ids, folder / split)
        return Documents(str(folder), key, read, partial(_damaged, folder), tokenized=True)

    held_out = source.evaluation
    return Source(documents("train"), None if held_out is None else documents("validation"))


def _ids(folder: Path) -> Iterator[object]:
    for batch in load_from_disk(str(folder)).iter(batch_size=1000):
        yield from batch[TOKEN_COLUMN]


def _damaged(folder: Path, error: BaseException) -> ConfigError:
    return ConfigError(
        f"dataset.pre_tokenize_output={folder}: cannot be read ({first_line(error)}); delete it to "
        "have it made again"
    )
