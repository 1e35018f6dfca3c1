"""Pairs, tokenised once: Arrow files under ``dataset.path``, each with a manifest.

::

    <dataset.path>/<SOURCE>/<key>/pairs.arrow  manifest.json

The key is a hash of source, tokenizer and settings, so that none is ever read under others. Texts
of pretraining steps may have a corpus of their own, ``contrastive.pretraining_dataset``.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pyarrow as pa

from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.cache import build_cached, cache_folder, file_digests, key_of, opening
from neobert.data.corpora import CORPORA
from neobert.data.processes import in_processes, num_processes
from neobert.data.shards import token_store
from neobert.data.sources import open_source
from neobert.data.token_store import TokenStore
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError
from neobert.files import sha256, user_path
from neobert.tasks.contrastive.examples import identity, read_examples
from neobert.tasks.contrastive.packaged_pairs import Example
from neobert.tasks.contrastive.pair_encoder import SCHEMA, PairEncoder
from neobert.tasks.contrastive.pair_sources import EVERYTHING, PairSource, select_sources

log = get_logger(__name__)

BATCH = 1000
PAIRS, MANIFEST = "pairs.arrow", "manifest.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A source whose tokens are on disk."""

    name: str
    folder: Path
    manifest: dict[str, object]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents of a token store, opened, closed and cut to the length."""

    store: TokenStore
    tokenizer: TokenizerInfo
    max_length: int

    def __len__(self) -> int:
        return self.store.info.documents

    def __getitem__(self, number: int) -> list[int]:
        return self.tokenizer.text.wrap(self.store.document(number).tolist(), self.max_length)


def pair_encoder(config: Config, tokenizer: TokenizerInfo) -> PairEncoder:
    """The encoder that the settings ask for."""
    settings, length = config.contrastive, config.dataset.max_seq_length
    if length <= tokenizer.wrapping:
        raise ConfigError(f"dataset.max_seq_length={length}: leaves no room for text")
    return PairEncoder(
        tokenizer.text,
        tokenizer.fingerprint,
        length,
        settings.query_prefix,
        settings.document_prefix,
    )


def prepare_sources(config: Config, encoder: PairEncoder, force: bool = False) -> list[Prepared]:
    """The sources that ``dataset.name`` selects, tokenised: what is missing is made.

    With ``dataset.load_all_from_disk`` nothing is made or looked at but the tokens on disk; with
    ``force`` they are rebuilt. Raises ``ConfigError`` for sources that cannot be used.
    """
    cache = cache_folder(config.dataset.cache_dir)
    root = user_path(config.dataset.path) if config.dataset.path else cache / "pairs"
    sources = select_sources(config.dataset.name, config.contrastive)
    if config.dataset.load_all_from_disk:
        every = config.dataset.name.strip().lower() in EVERYTHING
        names = None if every else [source.name for source in sources]
        return [_opened(folder, cache) for folder in _on_disk(root, encoder, names)]
    return [_prepare(source, root, encoder, config, force) for source in sources]


def _prepare(
    source: PairSource, root: Path, encoder: PairEncoder, config: Config, force: bool
) -> Prepared:
    sources_dir, cache = config.contrastive.sources_dir, cache_folder(config.dataset.cache_dir)
    key = {"source": identity(source, sources_dir, cache), **encoder.key()}
    folder = root / source.name / key_of(key)

    def make(target: Path) -> None:
        log.info("%s: tokenising", source.name)
        examples = read_examples(source, sources_dir, fresh=force)
        counts = _write(target / PAIRS, examples, encoder, num_processes(config.dataset.num_proc))
        if not counts["pairs"]:
            raise ConfigError(f"source {source.name}: has no pair with text on both sides")
        manifest = {"name": source.name, **key, **counts, "sha256": sha256(target / PAIRS)}
        (target / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False))

    build_cached(folder, make, rebuild=force)
    return _opened(folder, cache)


def _opened(folder: Path, cache: Path) -> Prepared:
    with opening(folder):
        manifest = dict(json.loads((folder / MANIFEST).read_text()))
        left_out = {reason: number for reason, number in manifest["left_out"].items() if number}
        if file_digests([folder / PAIRS], cache) != [manifest["sha256"]]:
            raise ValueError(f"{PAIRS}: its SHA-256 is not the recorded one")
    name, omissions = manifest["name"], f", left out: {left_out}" if left_out else ""
    log.info("%s: %s pairs%s", name, f"{manifest['pairs']:,}", omissions)
    return Prepared(name, folder, manifest)


def _on_disk(root: Path, encoder: PairEncoder, names: list[str] | None) -> list[Path]:
    """What was prepared for this encoder, whatever has become of its source since."""
    folders: dict[str, Path] = {}
    for manifest in sorted(root.glob(f"*/*/{MANIFEST}"), key=lambda path: path.stat().st_mtime):
        with opening(manifest.parent):
            recorded = dict(json.loads(manifest.read_text()))
            if all(recorded.get(key) == value for key, value in encoder.key().items()):
                folders[recorded["name"]] = manifest.parent
    selected = sorted(folders) if names is None else names
    missing = [name for name in selected if name not in folders]
    if missing or not selected:
        raise ConfigError(
            f"dataset.load_all_from_disk: {root} has no {', '.join(missing) or 'source'} "
            "prepared with this tokenizer, dataset.max_seq_length and prefixes; there are "
            f"{', '.join(sorted(folders)) or 'none'}. Prepare it: "
            "python -m neobert.tools.prepare task=contrastive"
        )
    return [folders[name] for name in selected]


def _write(
    file: Path, examples: Iterator[Example], encoder: PairEncoder, num_proc: int
) -> dict[str, object]:
    """Tokenise in ``num_proc`` processes and write; return the counts of pairs and omissions."""
    left_out: Counter[str] = Counter()
    pairs = tokens = negatives = 0
    batches = iter(lambda: list(islice(examples, BATCH)), [])
    good = (list(cleaned(batch, left_out)) for batch in batches)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for table in in_processes(encoder, good, num_proc):
            writer.write_batch(table)
            pairs += len(table)
            negatives += len(table["negatives"].flatten())
            tokens += sum(len(table[name].flatten()) for name in ("query", "positive"))
    counts = {"pairs": pairs, "negatives": negatives, "tokens": tokens}
    return {**counts, "left_out": dict(left_out)}


def cleaned(batch: Iterable[Example], left_out: Counter[str]) -> Iterator[Example]:
    """Drop what teaches nothing or the wrong thing, and count it.

    Pairs with an empty side; negatives that are empty, or the query or the positive itself.
    """
    for example in batch:
        query, positive = example.query.strip(), example.positive.strip()
        if not query or not positive:
            left_out["pairs with an empty text"] += 1
            continue
        negatives = [text.strip() for text in example.negatives]
        good = [text for text in negatives if text and text not in (query, positive)]
        left_out["negatives that are empty"] += negatives.count("")
        equal = len(negatives) - len(good) - negatives.count("")
        left_out["negatives equal to their query or positive"] += equal
        yield Example(query, positive, good, example.group or query, example.held_out)


def open_corpus(config: Config, tokenizer: TokenizerInfo) -> Corpus | None:
    """The corpus that the settings name, tokenised once; ``None`` if they name none."""
    corpus = config.contrastive.pretraining_dataset
    if not corpus or config.dataset.pretraining_prob == 0:
        return None
    is_file = corpus not in CORPORA and user_path(corpus).exists()
    name, path = ("local", corpus) if is_file else (corpus, "")
    settings = replace(config.dataset, streaming=False, eval_samples=None, name=name, path=path)
    cache = cache_folder(config.dataset.cache_dir)
    documents = open_source(settings, cache, config.seed).train
    store = token_store(cache, documents, tokenizer, num_processes(config.dataset.num_proc))
    if not store.info.documents:
        raise ConfigError(f"contrastive.pretraining_dataset={corpus}: has no document")
    return Corpus(store, tokenizer, config.dataset.max_seq_length)
