"""Text → ids in a process of its own; imports nothing heavy, so that such a process starts fast."""

import multiprocessing
import os
import threading

from neobert.text_tokenizer import Encoded, TextTokenizer

_tokenizers: list[TextTokenizer] = []


def start(tokenizer: TextTokenizer) -> None:
    """Make this process ready."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizers[:] = [tokenizer]
    end_with_parent()


def end_with_parent(worker: int = 0) -> None:
    """End this process once the one that wanted it is gone; a killed one tells nobody.

    ``worker`` is what PyTorch gives to the start of a loader process, whose own watch looks at the
    parent only, which a fork server is.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()


def encode_here(texts: list[str]) -> Encoded:
    """Ids of ``texts`` by the tokenizer that this process was started with."""
    return _tokenizers[0].encode(texts)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # a killed one leaves its helpers waiting for ever
        os._exit(1)
