"""Which documents train and which are held out: named splits, slices, a fraction, the head."""

import re
from typing import TypeAlias

from datasets import Dataset, IterableDataset

from neobert.config.checks import ConfigError
from neobert.config.dataset import DatasetConfig
from neobert.console import get_logger
from neobert.data.files import EVALUATION_SPLITS

log = get_logger(__name__)

SLICE = re.compile(r"^(?P<name>[^\[]+)\[(?P<start>-?\d*)(?P<p1>%?):(?P<stop>-?\d*)(?P<p2>%?)\]$")

Data: TypeAlias = Dataset | IterableDataset


def split_data(
    parts: dict[str, Data], config: DatasetConfig, origin: str, seed: int
) -> tuple[Data, Data | None]:
    """Training and evaluation data.

    Evaluation: ``dataset.eval_split``; else the first split called validation, eval, test or dev;
    else ``validation_split``; else the first ``eval_samples`` documents, which training then skips.
    """
    train_name = config.train_split or "train"
    train = _split(parts, train_name, "train_split", origin)
    evaluation = None
    if config.eval_split is not None:
        evaluation = _split(parts, config.eval_split, "eval_split", origin)
        if config.eval_split.partition("[")[0] == train_name:  # all of it
            log.warning(
                "dataset.eval_split=%s is trained on too: dataset.train_split can leave it out, "
                "such as dataset.train_split='train[5%%:]' dataset.eval_split='train[:5%%]'",
                config.eval_split,
            )
    else:
        used = train_name.partition("[")[0]
        name = next((one for one in EVALUATION_SPLITS if one in parts and one != used), None)
        evaluation = None if name is None else parts[name]
        if name is not None and config.validation_split is not None:
            log.info("dataset.validation_split is not needed: %s has a split %s", origin, name)
    if evaluation is None and config.validation_split is not None:
        if isinstance(train, Dataset):
            return _fraction(train, config.validation_split, origin, seed)
        log.warning("dataset.validation_split: a stream takes dataset.eval_samples instead")
    if evaluation is None and config.eval_samples is not None:
        return _head_split(train, config.eval_samples, origin)
    if evaluation is not None and config.eval_samples is not None:
        evaluation = _take(evaluation, config.eval_samples)
    return train, evaluation


def _fraction(train: Dataset, share: float, origin: str, seed: int) -> tuple[Dataset, Dataset]:
    if len(train) < 2:
        raise ConfigError(f"dataset.validation_split: {origin} has {len(train)} documents")
    held_out = min(max(1, round(share * len(train))), len(train) - 1)
    halves = train.train_test_split(test_size=held_out, seed=seed)
    return halves["train"], halves["test"]


def _take(data: Data, count: int) -> Data:
    return data.take(min(count, len(data)) if isinstance(data, Dataset) else count)


def _head_split(train: Data, samples: int, origin: str) -> tuple[Data, Data]:
    if isinstance(train, Dataset):
        if len(train) < 2:
            raise ConfigError(f"dataset.eval_samples: {origin} has only {len(train)} documents")
        if samples >= len(train):
            log.warning("dataset.eval_samples: lowered to %d, one document is left", len(train) - 1)
            samples = len(train) - 1
    return train.skip(samples), train.take(samples)


def _split(parts: dict[str, Data], wanted: str, key: str, origin: str) -> Data:
    """A split by its name, sliced if the name says so: ``train[1000:]``, ``train[:5%]``."""
    sliced = SLICE.match(wanted)
    name = sliced["name"] if sliced else wanted
    if name not in parts:
        there = ", ".join(parts)
        raise ConfigError(f"dataset.{key}={wanted}: {origin} has the splits {there}")
    part = parts[name]
    if sliced is None:
        return part
    if isinstance(part, IterableDataset):
        return _sliced_stream(part, sliced, wanted, key)
    start = _edge(sliced["start"], sliced["p1"], len(part))
    stop = _edge(sliced["stop"], sliced["p2"], len(part))
    chosen = range(len(part))[start:stop]
    if not chosen:
        raise ConfigError(f"dataset.{key}={wanted}: is empty, there are {len(part)} documents")
    return part.select(chosen)


def _sliced_stream(
    part: IterableDataset, sliced: re.Match[str], wanted: str, key: str
) -> IterableDataset:
    if sliced["p1"] or sliced["p2"] or "-" in sliced["start"] + sliced["stop"]:
        raise ConfigError(
            f"dataset.{key}={wanted}: percent slicing needs a length, which a stream has not"
        )
    start, stop = int(sliced["start"] or 0), sliced["stop"]
    part = part.skip(start) if start else part
    return part.take(int(stop) - start) if stop else part


def _edge(number: str, percent: str, length: int) -> int | None:
    if not number:
        return None
    return round(int(number) * length / 100) if percent else int(number)
