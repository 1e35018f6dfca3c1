"""Texts in, sentence vectors out, packed and in order: what MTEB, the tools and benchmarks share.

Texts are sorted by length and laid end to end up to a budget of tokens, so nothing is computed for
padding; the vectors come back in the order of the texts. Whoever has a corpus calls
:meth:`TextEncoder.encode_parts`, whose memory does not grow with it.

Letters: S texts, T tokens of all texts of a batch, E model width.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from neobert.batch import PackedBatch
from neobert.model.encoder import Encoder
from neobert.ops.pooling import pool
from neobert.text_tokenizer import TextTokenizer

TEXTS_AT_ONCE = 8192
"""Texts that are sorted together: enough for batches of nearly equal lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """How texts become vectors."""

    pooling: str = "avg"
    """``avg`` (the mean of the tokens, those that open and close included), ``cls`` or ``max``."""

    max_length: int | None = None
    """Longest text in tokens, what is longer is cut; ``None``: what the model was trained for."""

    tokens_per_batch: int = 16384
    """Tokens that go through the model together. One longer text is a batch of its own."""

    bf16: bool = False
    """Compute in bfloat16; the vectors are fp32 all the same."""


class TextEncoder:
    """An encoder and its tokenizer: a vector for each text."""

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: PreTrainedTokenizerFast,
        settings: EncodeSettings | None = None,
    ) -> None:
        self.encoder = encoder.eval()
        self.settings = settings or EncodeSettings()
        self.max_length = self.settings.max_length or encoder.config.max_position_embeddings
        self._tokenizer = TextTokenizer.of(tokenizer)

    @property
    def width(self) -> int:
        """Numbers in a vector, E."""
        return self.encoder.config.hidden_size

    @property
    def device(self) -> torch.device:
        """Where the model is. The vectors are on the CPU."""
        return self.encoder.encoder.weight.device

    def encode_parts(
        self, texts: Iterable[str], prefix: str = ""
    ) -> Iterator[tuple[list[str], Float[Tensor, "S E"]]]:
        """The texts and their vectors, ``TEXTS_AT_ONCE`` at a time, in order."""
        waiting = iter(texts)
        while part := list(islice(waiting, TEXTS_AT_ONCE)):
            yield part, self.encode(part, prefix)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], prefix: str = "") -> Float[Tensor, "S E"]:
        """A row per text, in fp32, not normalised; ``prefix`` is put before each text.

        Equal texts among ``TEXTS_AT_ONCE`` are computed once.
        """
        vectors = torch.empty(len(texts), self.width)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = texts[start : start + TEXTS_AT_ONCE]
            row_of = {text: row for row, text in enumerate(dict.fromkeys(part))}
            different = self._encode_different([prefix + text for text in row_of])
            vectors[start : start + len(part)] = different[[row_of[text] for text in part]]
        return vectors

    def _encode_different(self, texts: Sequence[str]) -> Float[Tensor, "S E"]:
        # A text without a token would have no mean: it becomes a lone padding token.
        documents = [
            ids or [self.encoder.pad_token_id]
            for ids in self._tokenizer.documents(texts, self.max_length)
        ]
        vectors = torch.empty(len(texts), self.width)
        lengths = [len(ids) for ids in documents]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            for rows in by_length(lengths, self.settings.tokens_per_batch):
                batch = PackedBatch.from_documents([documents[row] for row in rows])
                batch = batch.to(self.device)
                hidden = self.encoder(batch).float()  # (T, E)
                vectors[rows] = pool(hidden, batch.cu_seqlens, self.settings.pooling).cpu()
        return vectors


def by_length(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Rows in batches of like length and at most ``tokens_per_batch`` tokens, longest first.

    Longest first, so that memory is largest at the start and an encoder that does not fit says so
    at once. Equal lengths keep their order.
    """
    batch, tokens = list[int](), 0
    for row in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and tokens + lengths[row] > tokens_per_batch:
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += lengths[row]
    if batch:
        yield batch
