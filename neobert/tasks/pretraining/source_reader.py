"""From settings to the sources of a pretraining run: documents, tokens and rows, all cached."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from neobert.config.mixture import MixtureSource, mixture_sources
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.cache import cache_folder, key_of
from neobert.data.pretokenized import check_tokenizer, pre_tokenized
from neobert.data.processes import num_processes
from neobert.data.shards import token_store
from neobert.data.sources import STREAM_SAMPLE, Documents, Source, open_source
from neobert.data.token_store import TokenStore
from neobert.data.tokenizer import TokenizerInfo, load_tokenizer
from neobert.errors import ConfigError
from neobert.files import read_json, user_path, write_json
from neobert.tasks.pretraining.data_report import describe_plan, nothing_in
from neobert.tasks.pretraining.source_data import SourceData, each_source, packing_of, row_plan
from neobert.text_tokenizer import utf8_bytes

log = get_logger(__name__)

VOCABULARY_SAMPLE = 500_000
"""Documents that a vocabulary is trained on at most."""


class SourceReader:
    """Reads what the settings of a run name."""

    tokenizer: TokenizerInfo

    def __init__(self, config: Config) -> None:
        self.config = config
        self._cache = cache_folder(config.dataset.cache_dir)
        self._processes = num_processes(config.dataset.num_proc)

    def read(self) -> list[SourceData]:
        """Load or make tokenizer, token stores and row plans of all sources."""
        opened = each_source(
            dict.fromkeys(mixture_sources(self.config.dataset)),
            lambda settings, _: open_source(settings.dataset, self._cache, self.config.seed),
        )
        documents = list(opened.values())
        self.tokenizer = self._tokenizer([source.train for source in documents])
        self._check_lengths()
        texts = each_source(opened, self._within_budget)
        ready = each_source(texts, self._pre_tokenized)
        _check_alike(ready)
        sources = each_source(
            ready,
            lambda settings, source: self._source_data(
                settings, source, texts[settings].evaluation
            ),
        )
        return list(sources.values())

    def _pre_tokenized(self, settings: MixtureSource, source: Source) -> Source:
        """A source as ids, where that is set."""
        dataset = settings.dataset
        if dataset.path and source.train.tokenized:
            check_tokenizer(user_path(dataset.path), self.tokenizer)
        if not dataset.pre_tokenize or source.train.tokenized:
            return source
        output = dataset.pre_tokenize_output
        if output is not None and settings.name:
            output = str(Path(output) / settings.name)
        return pre_tokenized(source, self.tokenizer, self._cache, output, self._processes)

    def _source_data(
        self, settings: MixtureSource, source: Source, text: Documents | None
    ) -> SourceData:
        """Tokens and rows of a source; ``text``: its evaluation documents before they were ids."""
        streams = source.stream is not None
        documents = source.train.head(STREAM_SAMPLE if streams else None)
        store, eval_store, ratio = self._store(documents), TokenStore.in_memory(), None
        if source.evaluation is not None and text is not None:
            name = f"{source.evaluation.name} (evaluation)"
            eval_store = self._store(replace(source.evaluation, name=name))
            ratio = _tokens_per_byte(text, eval_store, self.tokenizer, self._cache)
        wrapping = self.tokenizer.wrapping
        packing = packing_of(self.config, wrapping, train=True)
        evaluated = packing_of(self.config, wrapping)
        train_plan = row_plan(store, packing, self.config.dataset)
        eval_plan = row_plan(eval_store, evaluated, self.config.dataset)
        data = SourceData(settings, source, store, eval_store, train_plan, eval_plan, ratio)
        log.info("%s", describe_plan(data, packing))
        if train_plan.num_rows == 0 and data.is_whole:
            raise ConfigError(nothing_in(settings, documents, packing))
        return data

    def _store(self, documents: Documents) -> TokenStore:
        return token_store(self._cache, documents, self.tokenizer, self._processes)

    def _tokenizer(self, parts: Sequence[Documents]) -> TokenizerInfo:
        """The tokenizer; one that is trained sees as many documents of each source."""
        size = VOCABULARY_SAMPLE // len(parts)
        samples = [documents.head(size) for documents in parts]
        vocabulary = self.config.tokenizer.train_vocab_size
        if vocabulary is not None and (
            ids := [sample.name for sample in samples if sample.tokenized]
        ):
            raise ConfigError(
                f"tokenizer.train_vocab_size: {', '.join(ids)} holds ids, not text; name the "
                "tokenizer they were made with (tokenizer.path=…, train_vocab_size=null)"
            )

        def texts() -> Iterator[str]:
            return chain.from_iterable(documents.texts() for documents in samples)

        key = (
            samples[0].key if len(samples) == 1 else {"sources": [sample.key for sample in samples]}
        )
        info = load_tokenizer(self.config.tokenizer, texts, key, self._cache)
        known, longest = info.tokenizer.model_max_length, self.config.dataset.max_seq_length
        if known < longest:
            log.warning(
                "tokenizer.max_length=%d is shorter than dataset.max_seq_length=%d, to which it is "
                "raised in the saved tokenizer",
                *(known, longest),
            )
            info.tokenizer.model_max_length = longest
        return info

    def _check_lengths(self) -> None:
        wrapping, length = self.tokenizer.wrapping, self.config.row_length()
        if length <= wrapping:
            raise ConfigError(f"dataset.max_seq_length={length}: leaves no room for text")

    def _within_budget(self, settings: MixtureSource, source: Source) -> Source:
        """Evaluate on ``dataset.eval_samples`` documents at most; a stream needs a limit."""
        if source.evaluation is None:
            return source
        budget = settings.dataset.eval_samples
        if source.stream is not None and budget is None:
            batches = self.config.trainer.eval_max_batches
            if batches is None:
                raise ConfigError(
                    "a streamed evaluation split needs an explicit budget: set "
                    "dataset.eval_samples or trainer.eval_max_batches"
                )
            budget = batches * self.config.trainer.per_device_eval_batch_size
        held_out = source.evaluation.head(budget)
        if source.stream is not None:
            held_out = held_out.known_by_text()
        return replace(source, evaluation=held_out)


def _check_alike(sources: Mapping[MixtureSource, Source]) -> None:
    """Raise ``ConfigError`` if some sources are streams and others are not."""
    streams = [settings.name for settings, source in sources.items() if source.stream is not None]
    indexed = [settings.name for settings, source in sources.items() if source.stream is None]
    if streams and indexed:
        raise ConfigError(
            f"dataset.mixture: {', '.join(streams)} would be streamed, {', '.join(indexed)} cannot "
            "be; set dataset.streaming=false, or dataset.pre_tokenize=true"
        )


def _tokens_per_byte(
    documents: Documents, store: TokenStore, info: TokenizerInfo, cache: Path
) -> float | None:
    """Tokens of ``store`` for each UTF-8 byte of its documents; ``None`` where there is no byte.

    Of documents that are ids, the bytes are those of the decoded text.
    """
    recipe = [documents.key, info.fingerprint if documents.tokenized else None]
    file = cache / "text_bytes" / f"{key_of(recipe)}.json"
    if file.is_file():
        known = read_json(file)
        assert isinstance(known, int)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        known = _text_bytes(documents, info)
        write_json(known, file)
    return store.info.tokens / known if known else None


def _text_bytes(documents: Documents, info: TokenizerInfo) -> int:
    texts: Iterable[str] = documents.texts()
    if documents.tokenized:
        texts = (str(info.tokenizer.decode(list(ids))) for ids in documents.ids())
    return sum(map(utf8_bytes, texts))
