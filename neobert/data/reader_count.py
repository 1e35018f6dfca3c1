"""How many readers share a stream."""

from neobert.config.dataset import DatasetConfig
from neobert.data.loading import DEFAULT_READERS
from neobert.data.sources import STREAM_SAMPLE

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
