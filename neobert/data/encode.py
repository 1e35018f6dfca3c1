"""Text → ids in a process of its own; imports nothing heavy, so that such a process starts fast."""

import multiprocessing
import os
import threading

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Encoded = tuple[NDArray[np.uint32], NDArray[np.int64]]
"""Ids of some documents end to end, and how many each has."""

_here: list[Tokenizer] = []


def start(tokenizer: str) -> None:
    """Make this process ready: ``tokenizer`` as ``tokenizers`` writes it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _here[:] = [Tokenizer.from_str(tokenizer)]
    end_with_parent()


def end_with_parent(worker: int = 0) -> None:
    """End this process once the one that wanted it is gone; a killed one tells nobody.

    ``worker`` is what PyTorch gives to the start of a loader process, whose own watch looks at the
    parent only, which a fork server is.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()


def encode_here(texts: list[str]) -> Encoded:
    """:func:`encode` with the tokenizer that this process was started with."""
    return encode(_here[0], texts)


def encode(tokenizer: Tokenizer, texts: list[str]) -> Encoded:
    """Ids of ``texts``, special tokens not added."""
    found = [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    lengths = np.array([len(ids) for ids in found], dtype=np.int64)
    tokens = np.fromiter((token for ids in found for token in ids), np.uint32, int(lengths.sum()))
    return tokens, lengths


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # a killed one leaves its helpers waiting for ever
        os._exit(1)
