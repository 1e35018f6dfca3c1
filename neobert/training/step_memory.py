"""Memory of a training step by part, computed before there are weights.

Weights, gradients and optimizer states are counted on the meta device. Activations are what
autograd keeps: counted from small models of the run's width, since they grow with the tokens of a
micro-batch and with the number of blocks.

Letters: T tokens of a micro-batch, K targets, E width, V vocabulary.
"""

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from neobert.batch import PackedBatch
from neobert.config.root import Config
from neobert.model.heads import MaskedLM
from neobert.ops.cross_entropy import CHUNK, CHUNK_LOGITS
from neobert.optim.groups import MUON, owners

Number = TypeVar("Number", int, float)

SMALL = (64, 128)
"""Tokens of the two micro-batches from which activations are extrapolated."""

VOCABULARY = 128
"""Tokens of the small models, whose embeddings are not counted."""


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes at the peak of a step on one device: the end of the forward pass."""

    weights: int
    gradients: int
    """Kept until the backward pass of the next step begins."""

    optimizer: int
    activations: int
    logits: int
    """A chunk of logits, the decoder's gradient and its copies."""

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(getattr(self, part.name) for part in fields(self))


def meta_model(config: Config, vocab_size: int) -> MaskedLM:
    """The model of a run without memory for its weights."""
    with torch.device("meta"):
        return MaskedLM(config.model, vocab_size, config.model.pad_token_id)


def step_memory(config: Config, vocab_size: int, tokens: int, targets: int) -> StepMemory:
    """Memory of a step with ``tokens`` and ``targets`` in each micro-batch, in one process that
    holds the whole model."""
    model = meta_model(config, vocab_size)
    half = config.trainer.mixed_precision != "no"
    width = 2 if config.trainer.mixed_precision == "bf16-true" else 4
    numbers = sum(parameter.numel() for parameter in model.parameters())
    states = sum(
        (1 if row.owner == MUON else 2) * torch.Size(row.shape).numel()
        for row in owners(config.optimizer, model.named_parameters())
    )
    return StepMemory(
        weights=width * numbers,
        gradients=width * numbers,
        optimizer=width * states,
        activations=activation_bytes(config, tokens, final_states(config, tokens, targets)),
        logits=logit_bytes(vocab_size, config.model.hidden_size, targets, half),
    )


def logit_bytes(vocab_size: int, hidden_size: int, targets: int, half: bool) -> int:
    """Working memory of the loss: see :func:`neobert.ops.cross_entropy.linear_cross_entropy`."""
    rows = min(targets, CHUNK, max(1, CHUNK_LOGITS // vocab_size))
    matrix = vocab_size * (hidden_size + 1)
    copies = 2 * 2 if half else 4  # of the decoder and of a chunk's gradient, or the latter alone
    return rows * vocab_size * (4 + 4) + matrix * (4 + copies)


def final_states(config: Config, tokens: Number, targets: Number) -> Number:
    """Of how many tokens the loss takes the final hidden state."""
    return targets if config.trainer.masked_logits_only_loss else tokens


def activation_bytes(config: Config, tokens: int, states: int) -> int:
    """Bytes that autograd keeps of the encoder for the backward pass of ``tokens`` tokens.

    The sum of a constant, of a part for each block (copies of its weights in half precision), and
    of both for each token, of which models of one and two blocks give all four; less what the last
    block need not keep where the final hidden states are only ``states``.
    """
    one_block, two_blocks = (
        [_kept(config, blocks, size, size) for size in SMALL] for blocks in (1, 2)
    )
    few, many = SMALL
    more, blocks = tokens - few, config.model.num_hidden_layers - 1

    def at(sizes: list[int]) -> float:
        return sizes[0] + (sizes[1] - sizes[0]) / (many - few) * more

    per_state = (one_block[1] - _kept(config, 1, many, few)) / (many - few)
    whole = at(one_block) + blocks * (at(two_blocks) - at(one_block))
    return round(whole - per_state * (tokens - states))


def _kept(config: Config, blocks: int, tokens: int, states: int) -> int:
    """Bytes of the tensors, other than parameters, that a forward pass leaves to autograd."""
    settings = replace(config.model, num_hidden_layers=blocks)
    model = MaskedLM(settings, VOCABULARY, config.model.pad_token_id)
    model.model.gradient_checkpointing = config.trainer.gradient_checkpointing
    half = config.trainer.mixed_precision != "no"
    if config.trainer.mixed_precision == "bf16-true":
        model, half = model.to(torch.bfloat16), False
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            storages[place] = tensor
        return tensor

    ids = torch.ones(tokens, dtype=torch.int64)
    batch = PackedBatch.from_lengths(ids, torch.tensor([tokens]), row_length=tokens)
    context = torch.autocast("cpu", torch.bfloat16, enabled=half)
    with saved_tensors_hooks(keep, lambda tensor: tensor), context:
        hidden = model.train().hidden(batch, torch.arange(states))
    storages[hidden.untyped_storage().data_ptr()] = hidden
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
