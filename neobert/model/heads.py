"""What stands on the encoder: a decoder of masked words, or a classifier of documents.

Letters: T tokens, S documents, E model width, V vocabulary, B rows and L width of a padded batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from neobert.batch import PackedBatch
from neobert.config.model import ModelConfig
from neobert.model.encoder import Encoder
from neobert.model.ngpt import normalize_
from neobert.ops.pooling import pool


@dataclass(frozen=True, slots=True)
class MaskedLMOutput:
    """What a padded batch comes back as; zeros where the mask is false."""

    logits: Float[Tensor, "B L V"]
    last_hidden_state: Float[Tensor, "B L E"]


class MaskedLM(nn.Module):
    """An encoder and its decoder of words, whose weight is the embedding unless it is untied.

    nGPT's is always its own.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        pad_token_id: int,
        decoder_bias: bool = False,
    ) -> None:
        """``decoder_bias`` is for weights published with one; the models made here have none."""
        super().__init__()
        self.vocab_size, self.pad_token_id = vocab_size, pad_token_id
        self.model = Encoder(config, vocab_size, pad_token_id)
        self.config = self.model.config
        self.decoder = nn.Linear(config.hidden_size, vocab_size, bias=decoder_bias)
        half_width = config.decoder_init_range
        nn.init.uniform_(self.decoder.weight, -half_width, half_width)
        if config.ngpt:
            # Two tables on the sphere, not one, and a learned scale of each word's logit.
            self.sz = nn.Parameter(torch.full((vocab_size,), config.base_scale))
            normalize_(self)
        elif config.tie_word_embeddings:
            self.decoder.weight = self.model.encoder.weight

    @property
    def tied(self) -> bool:
        """Whether the decoder's weight is the embedding."""
        return self.decoder.weight is self.model.encoder.weight

    @property
    def decoder_weight(self) -> Float[Tensor, "V E"]:
        """What hidden states are multiplied with to become logits."""
        if not self.config.ngpt:
            return self.decoder.weight
        return self.decoder.weight * (self.sz / self.config.base_scale)[:, None]

    def logits(self, hidden: Float[Tensor, "K E"]) -> Float[Tensor, "K V"]:
        """Scores of every token, from final hidden states."""
        return nn.functional.linear(hidden, self.decoder_weight, self.decoder.bias)

    def hidden(
        self, batch: PackedBatch, rows: Int[Tensor, " K"] | None = None
    ) -> Float[Tensor, "K E"]:
        """Final hidden states at ``rows`` of a packed or unpacked batch, by default of all tokens.

        The loss needs those that are predicted: see :meth:`Encoder.forward`.
        """
        return self.model(batch, rows)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Bool[Tensor, "B L"] | Int[Tensor, "B L"] | None = None,
    ) -> MaskedLMOutput:
        """The door for padded batches: all logits of every token that the mask keeps."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        keep = attention_mask.bool()
        hidden = self.hidden(PackedBatch.from_lengths(input_ids[keep], keep.sum(1).cpu()))  # (T, E)
        states = hidden.new_zeros(*input_ids.shape, hidden.shape[-1])
        states[keep] = hidden
        logits = states.new_zeros(*input_ids.shape, self.vocab_size)
        logits[keep] = self.logits(hidden)
        return MaskedLMOutput(logits, states)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
}
"""``glue.classifier_activation``: what follows the dense layer. ``none`` has no dense layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSettings:
    """The head of a classifier, apart from its number of labels."""

    activation: str = "tanh"
    """``tanh``, ``gelu`` (exact), or ``none``: one linear layer, without the dense layer."""

    pooling: str = "cls"
    """``cls``: the first token of a document; ``avg``: the mean of its tokens."""

    dropout: float = 0.0
    init_std: float = 0.02
    """Standard deviation of the initial weights."""


class SequenceClassifier(nn.Module):
    """Scores for each document: pooling, dropout, dense, activation, dropout, linear."""

    def __init__(self, encoder: Encoder, num_labels: int, settings: ClassifierSettings) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.settings = settings
        self.model = encoder
        self.dropout = nn.Dropout(settings.dropout)
        self.dense = None if settings.activation == "none" else nn.Linear(width, width)
        self.classifier = nn.Linear(width, num_labels)
        for layer in filter(None, (self.dense, self.classifier)):
            nn.init.normal_(layer.weight, std=settings.init_std)
            nn.init.zeros_(layer.bias)

    def forward(self, batch: PackedBatch) -> Float[Tensor, "S num_labels"]:
        """One row of scores per document of ``batch``."""
        hidden = self.model(batch)  # (T, E)
        pooled = pool(hidden, batch.cu_seqlens, self.settings.pooling).to(hidden.dtype)  # (S, E)
        if self.dense is not None:
            pooled = ACTIVATIONS[self.settings.activation](self.dense(self.dropout(pooled)))
        return self.classifier(self.dropout(pooled))


class TokenClassifier(nn.Module):
    """Scores for each token (dropout, linear): entities, or where an answer starts and ends."""

    def __init__(
        self,
        encoder: Encoder,
        num_labels: int,
        dropout: float = 0.0,
        init_std: float = 0.02,
        head: str = "classifier",
    ) -> None:
        """``head`` is the published name of the linear layer, ``classifier`` or ``qa_outputs``."""
        super().__init__()
        self.model, self.head = encoder, head
        self.dropout = nn.Dropout(dropout)
        linear = nn.Linear(encoder.config.hidden_size, num_labels)
        nn.init.normal_(linear.weight, std=init_std)
        nn.init.zeros_(linear.bias)
        self.add_module(head, linear)

    def forward(self, batch: PackedBatch) -> Float[Tensor, "T num_labels"]:
        """A row of scores per token of ``batch``."""
        return self.get_submodule(self.head)(self.dropout(self.model(batch)))
