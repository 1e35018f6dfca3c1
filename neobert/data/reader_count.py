"""How many readers share a stream, and what so many processes can do with them."""

import math

from neobert.config.dataset import DatasetConfig
from neobert.console import get_logger
from neobert.data.loading import DEFAULT_READERS
from neobert.data.sources import STREAM_SAMPLE
from neobert.errors import ConfigError

log = get_logger(__name__)

FEW_DOCUMENTS = 32
"""Documents of a short stream for each of its readers."""


def num_readers(settings: DatasetConfig, documents: int, trained_on: int) -> int:
    """``dataset.stream_readers``; by default 64, fewer for a stream of few documents, and one for a
    stream in its order.

    ``documents``: how many of the stream were counted (``STREAM_SAMPLE`` at most); ``trained_on``:
    those that are not held out.
    """
    if settings.stream_readers is not None:
        return settings.stream_readers
    if settings.shuffle_buffer_size <= 0:
        return 1
    if documents >= STREAM_SAMPLE:
        return DEFAULT_READERS
    return min(DEFAULT_READERS, 1 << max(0, (trained_on // FEW_DOCUMENTS).bit_length() - 1))


def check_readers(settings: DatasetConfig, documents: int, trained_on: int, ranks: int) -> None:
    """Report what ``ranks`` processes cannot do with the readers of the stream.

    Raises ``ConfigError`` with the number to set.
    """
    readers = num_readers(settings, documents, trained_on)
    key = f"dataset.stream_readers={readers}"
    if documents < STREAM_SAMPLE and trained_on < readers:
        raise ConfigError(
            f"{key}: the stream has only {trained_on} documents to train on; set it to "
            f"{trained_on} at most"
        )
    least = math.ceil(DEFAULT_READERS / ranks) * ranks
    is_shuffled = settings.shuffle_buffer_size > 0
    if ranks > readers and documents >= STREAM_SAMPLE and is_shuffled:
        raise ConfigError(
            f"{key}: {ranks} processes (trainer.devices × trainer.num_nodes) need {ranks} "
            f"readers or more; set dataset.stream_readers={least}"
        )
    if readers % ranks:
        log.warning(
            "%s is not a multiple of the %d processes, so %d of them read and tokenise each "
            "document; for a new run set dataset.stream_readers=%d",
            *(key, ranks, ranks // math.gcd(ranks, readers), least),
        )


def report_shared_files(readers: int, groups: int, ranks: int) -> None:
    """Warn that processes read the same files, of which each uses a part of the documents.

    ``groups`` of the ``readers`` have files of their own.
    """
    if groups < min(ranks, readers):
        log.warning(
            "the stream's files can be read in %d parts only, so each of the %d processes reads %d "
            "times what it trains on; decompress them (jsonl, txt and the row groups of parquet "
            "are read in parts), split them, or set dataset.pre_tokenize=true",
            *(groups, ranks, ranks // math.gcd(ranks, groups)),
        )
