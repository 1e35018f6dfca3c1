"""Attention layers as QK-clip sees them: record the largest logits, clip the projections.

Letters: B rows, L tokens of a row, H heads, D width of a head.
"""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from neobert.config.optimizer import MuonConfig
from neobert.console import get_logger
from neobert.model.ngpt import NormalizedBlock
from neobert.model.self_attention import SelfAttention
from neobert.optim.qk_clip import (
    clip_factor,
    num_clipped,
    qk_clip_,
    qk_clip_separate_,
    scale_rows_,
)

log = get_logger(__name__)


class FusedAttention:
    """A block of ours, whose Q, K and V are one weight."""

    def __init__(self, layer: SelfAttention, chunk_size: int) -> None:
        self.layer = layer
        layer.qk_chunk_size, layer.measurable = chunk_size, True

    @property
    def maxima(self) -> Tensor:
        """(H,) fp32: largest logit of each head since ``reset``, -inf before the first."""
        return self.layer.max_logits.float()

    def reset(self) -> None:
        """Forget what was measured."""
        self.layer.reset_max_logits()

    def record(self, on: bool) -> None:
        """Measure in the forward passes to come, or stop doing so."""
        self.layer.record_max_logits = on

    def clip_(self, maxima: Tensor, threshold: float, alpha: float) -> Tensor:
        """Scale the heads above ``threshold``; return their number, on the device."""
        return qk_clip_(self.layer.qkv.weight, maxima, threshold, alpha)


class NormalizedAttention(FusedAttention):
    """A block of nGPT. Its queries and keys have unit length whatever the projections are, so the
    learned scale of both is what clipping acts on; ``alpha`` has nothing to divide.
    """

    layer: NormalizedBlock

    @torch.no_grad()
    def clip_(self, maxima: Tensor, threshold: float, alpha: float) -> Tensor:
        factor = clip_factor(maxima, threshold).sqrt()  # (H,): the scale enters twice
        scale_rows_(self.layer.sqk, factor)
        return num_clipped(maxima, threshold)


class SeparateAttention:
    """A layer of another model, whose Q and K are modules of their own.

    Reads what they return, (B, L, H·D), and forms the logits from it; right for models without
    rotary positions. Rows of padding are left out by the attention mask of the same pass.
    """

    def __init__(self, query: nn.Linear, key: nn.Linear, num_heads: int, chunk_size: int) -> None:
        self.query, self.key = query, key
        self.num_heads, self.chunk_size = num_heads, chunk_size
        self.mask: Tensor | None = None
        """(B, L), true at text: set by whoever sees the model's inputs."""

        self._on = False
        self._queries: Tensor | None = None
        self._maxima = torch.full((num_heads,), -torch.inf)
        query.register_forward_hook(self._keep)
        key.register_forward_hook(self._raise_maxima)

    @property
    def maxima(self) -> Tensor:
        return self._maxima.to(self.query.weight.device)

    def reset(self) -> None:
        self._maxima = torch.full((self.num_heads,), -torch.inf)

    def record(self, on: bool) -> None:
        self._on = on

    def clip_(self, maxima: Tensor, threshold: float, alpha: float) -> Tensor:
        query: list[Tensor] = [*self.query.parameters()]
        key: list[Tensor] = [*self.key.parameters()]
        return qk_clip_separate_(query, key, maxima, threshold, alpha)

    def _keep(self, module: nn.Module, inputs: object, queries: Tensor) -> None:
        self._queries = queries.detach() if self._on else None

    @torch.no_grad()
    def _raise_maxima(self, module: nn.Module, inputs: object, keys: Tensor) -> None:
        if self._queries is None:
            return
        heads = (self.num_heads, -1)
        q, k = (x.unflatten(-1, heads).transpose(1, 2).float() for x in (self._queries, keys))
        keep = torch.ones(q.shape[0], q.shape[2], device=q.device, dtype=torch.bool)
        keep = keep if self.mask is None else self.mask.bool()  # (B, L)
        largest = torch.full((self.num_heads,), -torch.inf, device=q.device)
        for chunk, chunk_keep in zip(
            q.split(self.chunk_size, dim=2), keep.split(self.chunk_size, dim=1), strict=True
        ):
            logits = chunk @ k.mT / k.shape[-1] ** 0.5  # (B, H, chunk, L)
            pairs = chunk_keep[:, None, :, None] & keep[:, None, None, :]
            largest = largest.maximum(logits.masked_fill(~pairs, -torch.inf).amax((0, 2, 3)))
        self._maxima = self._maxima.to(q.device).maximum(largest)
        self._queries = None


Attention = FusedAttention | SeparateAttention


def attention_layers(module: LightningModule, config: MuonConfig) -> list[Attention]:
    """The layers of ``module`` that QK-clip measures and clips, in the model's order."""
    chunk = config.clipping_qk_chunk_size
    layers: list[Attention] = [
        (NormalizedAttention if isinstance(layer, NormalizedBlock) else FusedAttention)(
            layer, chunk
        )
        for layer in module.modules()
        if isinstance(layer, SelfAttention)
    ]
    if not layers and config.clipping_layers_mapping:
        layers = list(separate_layers(module, config))
    if not layers:
        raise ValueError(
            "QK-clip finds no attention layer in this model: set "
            "optimizer.muon_config.enable_clipping=false, or name its projections in "
            "optimizer.muon_config.clipping_layers_mapping={q_proj: ..., k_proj: ...}"
        )
    return layers


def separate_layers(module: LightningModule, config: MuonConfig) -> list[SeparateAttention]:
    """Every submodule with the two projections that ``clipping_layers_mapping`` names."""
    names = {"q_proj": "q_proj", "k_proj": "k_proj", **config.clipping_layers_mapping}
    layers = []
    for layer in module.modules():
        children = dict(layer.named_children())
        query, key = children.get(names["q_proj"]), children.get(names["k_proj"])
        if isinstance(query, nn.Linear) and isinstance(key, nn.Linear):
            heads = num_heads_of(layer)
            layers.append(SeparateAttention(query, key, heads, config.clipping_qk_chunk_size))
    _hand_out_mask(module, layers)
    return layers


def num_heads_of(layer: nn.Module) -> int:
    """Number of heads of another library's attention layer, under the names in use."""
    for name in ("num_attention_heads", "num_heads", "n_heads"):
        heads = getattr(layer, name, None)
        if isinstance(heads, int):
            return heads
    raise ValueError(f"{type(layer).__name__} does not say its number of heads")


def _hand_out_mask(module: LightningModule, layers: list[SeparateAttention]) -> None:
    """Let the layers see the ``attention_mask`` that any submodule is called with."""

    def note(model: nn.Module, args: object, keywords: dict[str, object]) -> None:
        mask = keywords.get("attention_mask")
        for layer in layers:
            layer.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    for child in module.children():
        child.register_forward_pre_hook(note, with_kwargs=True)
