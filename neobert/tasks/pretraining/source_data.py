"""The sources of a pretraining run: their documents, tokens, rows and shares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from neobert.config.dataset import DatasetConfig
from neobert.config.mixture import MixtureSource, mixture_sources, of_source
from neobert.config.root import Config
from neobert.data.cache import build_cached, cache_folder, key_of
from neobert.data.curriculum import Crop
from neobert.data.mixture import tempered
from neobert.data.packing import Packing, RowPlan
from neobert.data.processes import num_processes
from neobert.data.sources import STREAM_SAMPLE, Source
from neobert.data.stream_readers import num_readers
from neobert.data.token_store import TokenStore
from neobert.errors import ConfigError

PLAN_VERSION = 3
Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SourceData:
    """A source with its tokens and rows."""

    settings: MixtureSource
    source: Source
    train_store: TokenStore
    """All training documents; of a stream, the first ``STREAM_SAMPLE``."""

    eval_store: TokenStore
    train_plan: RowPlan
    """Rows of the first stage."""

    eval_plan: RowPlan
    tokens_per_byte: float | None
    """Of the evaluation text; ``None`` where there is none."""

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def digest(self) -> object:
        """What tells the training text from others: of a stream its name and first documents."""
        tokens = self.train_store.info.digest
        return tokens if self.source.stream is None else [self.source.train.key, tokens]

    @property
    def is_whole(self) -> bool:
        """Whether ``train_store`` holds all documents."""
        return self.source.stream is None or self.train_store.info.documents < STREAM_SAMPLE

    @property
    def readers(self) -> int:
        """Readers of the training stream."""
        dataset, seen = self.settings.dataset, self.train_store.info.documents
        trained_on, is_mixed = self.train_plan.info.documents, bool(self.name)
        return num_readers(dataset, seen, trained_on, is_mixed)


def each_source(
    sources: Mapping[MixtureSource, Given], make: Callable[[MixtureSource, Given], Result]
) -> dict[MixtureSource, Result]:
    """``make`` of each source. Raises ``ConfigError`` with the problems of all of them."""
    results: dict[MixtureSource, Result] = {}
    problems: list[str] = []
    for settings, value in sources.items():
        try:
            results[settings] = make(settings, value)
        except ConfigError as error:
            mixed = bool(settings.name)
            lines = [
                of_source(problem, settings.key) if mixed else problem for problem in error.problems
            ]
            problems += lines
    if problems:
        raise ConfigError(*problems)
    return results


def shares_of_sources(dataset: DatasetConfig, sources: Sequence[SourceData]) -> tuple[float, ...]:
    """The share of each source in the rows, under the weights of ``dataset``.

    Raises ``ConfigError`` where streams, whose sizes are unknown, have no weights.
    """
    weights = [settings.weight for settings in mixture_sources(dataset)]
    if dataset.mixture and None in weights and any(source.source.stream for source in sources):
        names = ", ".join(f"dataset.mixture.{source.name}.weight" for source in sources)
        raise ConfigError(f"dataset.mixture: the size of a stream is unknown; set {names}")
    sizes = [
        float(source.train_store.info.tokens if weight is None else weight)
        for source, weight in zip(sources, weights, strict=True)
    ]
    temperature = dataset.mixture_temperature
    return tempered(tuple(sizes), 1.0 if temperature is None else temperature)


def unigram_loss(sources: Sequence[SourceData], shares: Sequence[float], words: NDArray) -> float:
    """Nats per token of the evaluation text under the word frequencies of the training text, of
    several sources in their shares; of the training text itself where nothing is held out.

    ``words``: whether each id is a word, not a special token.
    """
    probability = np.zeros(len(words))
    met = np.zeros(len(words))
    is_held_out = any(source.eval_store.info.tokens for source in sources)
    for source, share in zip(sources, shares, strict=True):
        seen = (source.train_store.counts + 1.0) * words
        probability += share * (seen / seen.sum())
        store = source.eval_store if is_held_out else source.train_store
        if store.info.tokens:
            counts = store.counts * words
            met += share * (counts / max(1, counts.sum()))
    used = met > 0
    return float(-(met[used] * np.log(probability[used])).sum() / max(met.sum(), 1e-300))


def packing_of(config: Config, wrapping: int, train: bool = False) -> Packing:
    """How documents become rows; ``wrapping``: special tokens of a document."""
    length, dataset = config.row_length(), config.dataset
    longest, crop = min(length, dataset.max_seq_length), None
    if train and dataset.crop_min_length is not None:
        most = longest - wrapping
        crop = Crop(dataset.crop_min_length, most, dataset.crop_share, config.seed)
    return Packing(
        row_length=length,
        longest=longest,
        wrapping=wrapping,
        packed=config.datacollator.pack_sequences,
        truncate=config.tokenizer.truncation,
        shortest=dataset.min_length if dataset.filter_by_length else 0,
        multiple=config.datacollator.pad_to_multiple_of or 1,
        crop=crop,
    )


def row_plan(
    store: TokenStore, packing: Packing, dataset: DatasetConfig, epoch: int = 0
) -> RowPlan:
    """The rows of ``store``, planned once per cache."""
    recipe = {"store": store.info.digest, **asdict(packing), "version": PLAN_VERSION}
    cache, processes = cache_folder(dataset.cache_dir), num_processes(dataset.num_proc)
    folder = cache / "rows" / key_of({**recipe, "epoch": epoch})
    build_cached(folder, lambda to: packing.write_plan(store.offsets, to, processes, epoch=epoch))
    return RowPlan.load(folder)
