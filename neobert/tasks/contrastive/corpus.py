"""Texts of pretraining steps from a corpus of their own: ``contrastive.pretraining_dataset``."""

from dataclasses import dataclass, replace

from neobert.config.root import Config
from neobert.data.cache import cache_folder
from neobert.data.corpora import is_packaged
from neobert.data.processes import num_processes
from neobert.data.shards import token_store
from neobert.data.sources import open_source
from neobert.data.token_store import TokenStore
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError
from neobert.files import user_path


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


def open_corpus(config: Config, tokenizer: TokenizerInfo) -> Corpus | None:
    """The corpus that the settings name, tokenised once; ``None`` if they name none."""
    corpus = config.contrastive.pretraining_dataset
    if not corpus or config.dataset.pretraining_prob == 0:
        return None
    is_file = not is_packaged(corpus) and user_path(corpus).exists()
    name, path = ("local", corpus) if is_file else (corpus, "")
    settings = replace(config.dataset, streaming=False, eval_samples=None, name=name, path=path)
    cache = cache_folder(config.dataset.cache_dir)
    documents = open_source(settings, cache, config.seed).train
    store = token_store(cache, documents, tokenizer, num_processes(config.dataset.num_proc))
    if not store.info.documents:
        raise ConfigError(f"contrastive.pretraining_dataset={corpus}: has no document")
    return Corpus(store, tokenizer, config.dataset.max_seq_length)
