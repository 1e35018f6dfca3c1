"""Which documents train and which are held out: named splits, slices, a fraction, the head."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from neobert.config.dataset import DatasetConfig
from neobert.console import get_logger
from neobert.data.data_files import canonical_split
from neobert.data.stream_source import StreamSource
from neobert.errors import ConfigError

log = get_logger(__name__)

EVALUATION_SPLITS = ("validation", "valid", "val", "eval", "test", "dev")
SLICE = re.compile(r"^(?P<name>[^\[]+)\[(?P<start>-?\d*)(?P<p1>%?):(?P<stop>-?\d*)(?P<p2>%?)\]$")
COUNTED = 10_000
"""Documents up to which exactly the fraction is held out; beyond, as nearly as hashes give it."""

ENDLESS = sys.maxsize
"""End of a range whose end is that of the data."""


@dataclass(frozen=True, slots=True)
class SequentialValues:
    """The values that ``read`` gives again on each call, from number ``first`` up to ``stop``."""

    read: Callable[[], Iterable[object]]
    files: tuple[Path, ...] = ()
    """Where they are read from; of a packaged corpus none."""

    first: int = 0
    stop: int | None = None

    def __iter__(self) -> Iterator[object]:
        return islice(self.read(), self.first, self.stop)

    def count(self, at_most: int | None = None) -> int:
        """How many there are, which only reading tells."""
        return sum(1 for _ in islice(self, at_most))


Data: TypeAlias = Dataset | StreamSource | SequentialValues
AnyData = TypeVar("AnyData", Dataset, StreamSource, SequentialValues)


@dataclass(frozen=True, slots=True)
class HoldOut:
    """A share of the documents, by a hash of the seed and a document's number in reading order."""

    seed: int
    bound: int
    """Held out are the documents whose hash is below it, of 2**64."""

    @classmethod
    def of(cls, fraction: float, seed: int, count: int | None) -> "HoldOut":
        """For ``count`` documents, at least 2, exactly the fraction; ``None``: for many."""
        if count is None:
            return cls(seed, round(fraction * 2**64))
        num_held = min(max(1, round(fraction * count)), count - 1)
        return cls(seed, int(np.partition(_hashes(seed, 0, count), num_held)[num_held]))

    def holds(self, first: int, count: int) -> NDArray[np.bool_]:
        """Whether each of ``count`` documents from number ``first`` on is held out."""
        return _hashes(self.seed, first, count) < np.uint64(min(self.bound, 2**64 - 1))


@dataclass(frozen=True, slots=True)
class SplitData:
    """Training and evaluation data, or data of which ``hold_out`` holds a share out."""

    train: Data
    evaluation: Data | None = None
    hold_out: HoldOut | None = None


def split_data(
    parts: Mapping[str, Data], config: DatasetConfig, origin: str, seed: int
) -> SplitData:
    """Training and evaluation data.

    Evaluation: ``dataset.eval_split``; else the first split called validation or test (or by one
    of their other names); else ``validation_split``; else the first ``eval_samples`` documents,
    which training then skips.
    """
    train_name = config.train_split or "train"
    train = _split(parts, train_name, "train_split", origin)
    evaluation = _evaluation(parts, train_name, config, origin)
    if evaluation is None and config.validation_split is not None:
        if not isinstance(train, StreamSource):
            return SplitData(train, hold_out=hold_out(train, config.validation_split, origin, seed))
        log.warning("dataset.validation_split: a stream takes dataset.eval_samples instead")
    if config.eval_samples is None:
        return SplitData(train, evaluation)
    if evaluation is None:
        return SplitData(*head_split(train, config.eval_samples, origin))
    return SplitData(train, _span(evaluation, 0, config.eval_samples))


def _evaluation(
    parts: Mapping[str, Data], train_name: str, config: DatasetConfig, origin: str
) -> Data | None:
    used = named_split(parts, train_name)
    if config.eval_split is not None:
        evaluation = _split(parts, config.eval_split, "eval_split", origin)
        if named_split(parts, config.eval_split) == used:
            _warn_of_overlap(parts[str(used)], train_name, config.eval_split)
        return evaluation
    name = next((split for split in EVALUATION_SPLITS if split in parts and split != used), None)
    if name is None:
        return None
    if config.validation_split is not None:
        log.info("dataset.validation_split is not needed: %s has a split %s", origin, name)
    return parts[name]


def _warn_of_overlap(part: Data, train: str, evaluation: str) -> None:
    ranges = [
        _slice_range(part, train, "train_split"),
        _slice_range(part, evaluation, "eval_split"),
    ]
    if max(span.start for span in ranges) < min(span.stop for span in ranges):
        log.warning(
            "dataset.eval_split=%s is trained on too: dataset.train_split can leave it out, such "
            "as dataset.train_split='train[5%%:]' dataset.eval_split='train[:5%%]'",
            evaluation,
        )


def hold_out(
    data: Dataset | SequentialValues, fraction: float, origin: str, seed: int
) -> HoldOut | None:
    """What holds the fraction of ``data`` out; ``None`` where there are fewer than 2 documents."""
    count = _count(data, COUNTED + 1)
    if count < 2:
        log.warning(
            "dataset.validation_split: %s has fewer than 2 documents: none is held out", origin
        )
        return None
    return HoldOut.of(fraction, seed, None if count > COUNTED else count)


def sliced(part: AnyData, split: str, key: str) -> AnyData:
    """``part`` as the slice in a split's name says: ``train[1000:]``, ``train[:5%]``."""
    if "[" not in split:
        return part
    chosen = _slice_range(part, split, key)
    return _span(part, chosen.start, None if chosen.stop == ENDLESS else chosen.stop)


def _slice_range(part: Data, split: str, key: str) -> range:
    """The document numbers of a slice; up to :data:`ENDLESS` where the end is not known."""
    if "[" not in split:
        return range(ENDLESS)
    edges = SLICE.match(split)
    if edges is None:
        raise ConfigError(
            f"dataset.{key}={split}: is no slice; write train[:1000], train[1000:2000] or "
            "train[:10%]"
        )
    counts_back = "-" in edges["start"] + edges["stop"]
    if edges["p1"] or edges["p2"] or counts_back:
        if isinstance(part, StreamSource):
            what = "counting from the end" if counts_back else "percent slicing"
            raise ConfigError(f"dataset.{key}={split}: {what} needs a length, a stream has none")
        length = _count(part)
    else:
        last = int(edges["stop"] or edges["start"] or 0)
        length = ENDLESS if isinstance(part, StreamSource) else _count(part, last + 1)
    start = _edge(edges["start"], edges["p1"], length)
    stop = _edge(edges["stop"], edges["p2"], length)
    chosen = range(length)[start:stop]
    if not chosen:
        raise ConfigError(f"dataset.{key}={split}: is empty, there are {length} documents")
    return range(chosen.start, ENDLESS if stop is None else chosen.stop)


def _count(data: Dataset | SequentialValues, at_most: int | None = None) -> int:
    return data.count(at_most) if isinstance(data, SequentialValues) else len(data)


def _span(data: AnyData, start: int, stop: int | None) -> AnyData:
    """The values from number ``start`` up to ``stop``, counted from the first of ``data``."""
    if isinstance(data, Dataset):
        return data.select(range(len(data))[start:stop])
    last = None if stop is None else data.first + stop
    ends = [end for end in (data.stop, last) if end is not None]
    return replace(data, first=data.first + start, stop=min(ends, default=None))


def head_split(train: AnyData, samples: int, origin: str) -> tuple[AnyData, AnyData]:
    """The documents after the first ``samples``, of which one is always left, and those."""
    if not isinstance(train, StreamSource):
        count = _count(train, samples + 1)
        if count < 2:
            raise ConfigError(f"dataset.eval_samples: {origin} has only {count} documents")
        if samples >= count:
            log.warning("dataset.eval_samples: lowered to %d, one document is left", count - 1)
            samples = count - 1
    return _span(train, samples, None), _span(train, 0, samples)


def _split(parts: Mapping[str, Data], split: str, key: str, origin: str) -> Data:
    """A split by its name, sliced if the name says so."""
    name = named_split(parts, split)
    if name is None:
        existing = ", ".join(parts)
        raise ConfigError(f"dataset.{key}={split}: {origin} has the splits {existing}")
    return sliced(parts[name], split, key)


def named_split(parts: Mapping[str, object], split: str) -> str | None:
    """The part that ``split``, perhaps a slice, is of; ``dev`` is of one called ``validation``."""
    whole = split.partition("[")[0]
    same = [name for name in parts if canonical_split(name) == canonical_split(whole)]
    return whole if whole in parts else next(iter(same), None)


def _edge(number: str, percent: str, length: int) -> int | None:
    if not number:
        return None
    return round(int(number) * length / 100) if percent else int(number)


def _hashes(seed: int, first: int, count: int) -> NDArray[np.uint64]:
    """64 bits of each document number, by the finaliser of SplitMix64 (Steele et al. 2014)."""
    start = np.random.SeedSequence([seed]).generate_state(1, np.uint64)[0]
    mixed = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
