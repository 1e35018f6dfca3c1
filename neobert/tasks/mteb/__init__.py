"""Evaluation of embeddings with mteb, which is an optional dependency."""

from importlib.util import find_spec

from neobert.errors import ConfigError

for package in ("mteb", "sentence_transformers"):
    if find_spec(package) is None:
        raise ConfigError(f"task=mteb needs the package {package}: pip install 'neobert[eval]'")
