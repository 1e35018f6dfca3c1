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


def num_readers(
    settings: DatasetConfig, documents: int, trained_on: int, is_mixed: bool = False
) -> int:
    """``dataset.stream_readers``; by default 64, fewer for a stream of few documents, and one for a
    stream in its order.

    ``documents``: how many of the stream were counted (``STREAM_SAMPLE`` at most); ``trained_on``:
    those that are not held out. In a mixture (``is_mixed``) the setting is for all sources: one of
    fewer documents than readers has a divisor of it.
    """
    readers = settings.stream_readers
    most = max(1, trained_on // FEW_DOCUMENTS)
    if readers is not None:
        if not is_mixed or documents >= STREAM_SAMPLE or trained_on >= readers:
            return readers
        return next(count for count in range(most, 0, -1) if readers % count == 0)
    if settings.shuffle_buffer_size <= 0:
        return 1
    if documents >= STREAM_SAMPLE:
        return DEFAULT_READERS
    return min(DEFAULT_READERS, 1 << (most.bit_length() - 1))


def check_readers(
    settings: DatasetConfig, documents: int, trained_on: int, ranks: int, source: str = ""
) -> None:
    """Report what ``ranks`` processes cannot do with the readers of the stream, in a mixture of the
    one whose settings have the key ``source``.

    Raises ``ConfigError`` with the number to set.
    """
    readers = num_readers(settings, documents, trained_on, bool(source))
    key, is_long = f"dataset.stream_readers={readers}", documents >= STREAM_SAMPLE
    if not is_long and trained_on < readers:
        raise ConfigError(
            f"{key}: the stream has only {trained_on} documents to train on; set it to "
            f"{trained_on} at most"
        )
    least = math.ceil(DEFAULT_READERS / ranks) * ranks
    if ranks > readers and is_long and settings.shuffle_buffer_size > 0:
        raise ConfigError(
            f"{key}: {ranks} processes (trainer.devices × trainer.num_nodes) need {ranks} "
            f"readers or more; set dataset.stream_readers={least}"
        )
    if readers % ranks and (is_long or not source):
        log.warning(
            "%s%s is not a multiple of the %d processes, so %d of them read and tokenise each "
            "document; for a new run set dataset.stream_readers=%d",
            *(source and f"{source}: ", key, ranks, ranks // math.gcd(ranks, readers), least),
        )


def report_shared_files(readers: int, groups: int, ranks: int, source: str = "") -> None:
    """Warn that processes read the same files, of which each uses a part of the documents.

    ``groups`` of the ``readers`` have files of their own. ``source`` as of :func:`check_readers`.
    """
    if groups < min(ranks, readers):
        log.warning(
            "%sthe stream's files can be read in %d parts only, so each of the %d processes reads "
            "%d times what it trains on; decompress them (jsonl, txt and the row groups of parquet "
            "are read in parts), split them, or set dataset.pre_tokenize=true",
            *(source and f"{source}: ", groups, ranks, ranks // math.gcd(ranks, groups)),
        )
