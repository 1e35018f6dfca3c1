"""Data sets that bring their own loading code: ``<folder>/<name>.py`` with a ``DatasetBuilder``.

``datasets`` ran such code itself up to version 3. It is foreign code with this process's rights, so
it runs only under ``dataset.trust_remote_code=true``.
"""

import importlib.util
import inspect
import sys
from pathlib import Path

from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    GeneratorBasedBuilder,
    IterableDatasetDict,
)
from datasets.builder import ArrowBasedBuilder

from neobert.config.dataset import DatasetConfig
from neobert.data.cache import key_of
from neobert.data.digests import file_digests
from neobert.errors import ConfigError
from neobert.files import reading

ABSTRACT = (DatasetBuilder, GeneratorBasedBuilder, ArrowBasedBuilder)


def loading_code(path: Path) -> Path | None:
    """The script of a folder that has one: ``corpus/corpus.py``."""
    script = path / f"{path.name}.py"
    return script if script.is_file() else None


def run_loading_code(
    script: Path, config: DatasetConfig, cache: Path
) -> DatasetDict | IterableDatasetDict:
    """The splits that the script's builder makes.

    Raises ``ConfigError`` unless ``dataset.trust_remote_code`` is set.
    """
    if not config.trust_remote_code:
        raise ConfigError(
            f"{script} is loading code of the data set itself: read it, then allow it to run "
            "with dataset.trust_remote_code=true"
        )
    # The script and what it may read: datasets keeps what it made of them under this hash.
    files = (path for path in script.parent.rglob("*") if path.is_file())
    beside = sorted(path for path in files if path.parent.name != "__pycache__")
    builder = _builder_class(script)(
        cache_dir=str(cache / "code"),
        config_name=config.config,
        base_path=str(script.parent),
        hash=key_of(file_digests(beside, cache)),
    )
    if config.streaming:
        return builder.as_streaming_dataset()
    builder.download_and_prepare()
    dataset = builder.as_dataset()
    return DatasetDict({"train": dataset}) if isinstance(dataset, Dataset) else dataset


def _builder_class(script: Path) -> type[DatasetBuilder]:
    spec = importlib.util.spec_from_file_location(f"neobert_corpus_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where datasets looks for the builder's module
    with reading(script, "dataset.path"):
        spec.loader.exec_module(module)
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, DatasetBuilder) and value not in ABSTRACT
    ]
    if len(classes) != 1:
        raise ConfigError(f"{script}: defines {len(classes)} classes of DatasetBuilder, not one")
    return classes[0]
