"""NeoBERT (arXiv 2502.19587) for transformers: this file travels with the weights.

It needs torch and transformers only (4.57 or newer, 5 included) and nothing of the package that
trained the model. Tokens that the attention mask leaves out are not computed at all where that
pays: with ``sdpa`` on a CPU and with ``flash_attention_2``. Their outputs are zeros then.

Letters: B rows, S places in a row, T tokens that are computed, E model width, H heads, D width of
a head, V vocabulary. ``...`` is ``B, S`` where rows stay rectangles and ``T`` where padding is out.
"""

import math
from copy import deepcopy
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

try:
    from flash_attn import flash_attn_varlen_func
except ImportError:
    flash_attn_varlen_func = None


CLASSIFIER_ACTIVATIONS = {"tanh": torch.tanh, "gelu": F.gelu, "none": None}


class NeoBERTConfig(PretrainedConfig):
    """Shape of the model; ``max_length`` is the published name of ``max_position_embeddings``.

    ``intermediate_size`` is that of an ungated layer: SwiGLU takes two thirds of it, rounded up to
    a multiple of 8. ``embedding_init_range`` and ``decoder_init_range`` are half-widths of uniform
    distributions, ``classifier_init_range`` is a standard deviation. ``ngpt`` is the normalised
    transformer (arXiv 2410.01131), which has no norms, no ``hidden_act`` and no tied decoder.
    ``rope_scaling`` scales the rotary frequencies (``rope_type`` linear, yarn or llama3).
    ``classifier_activation`` is ``tanh``, ``gelu`` or ``none`` (no dense layer),
    ``classifier_pooling`` ``cls`` (first token) or ``avg`` (mean of the tokens).
    """

    model_type = "neobert"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 28,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        embedding_init_range: float = 0.02,
        decoder_init_range: float = 0.02,
        classifier_init_range: float = 0.02,
        norm_eps: float = 1e-6,
        vocab_size: int = 30522,
        pad_token_id: int = 0,
        max_length: int | None = None,
        max_position_embeddings: int | None = None,
        rms_norm: bool = True,
        rope: bool = True,
        rope_theta: float = 10000.0,
        rope_scaling: dict | None = None,
        hidden_act: str = "swiglu",
        dropout: float = 0.0,
        classifier_dropout: float | None = None,
        classifier_activation: str = "tanh",
        classifier_pooling: str = "cls",
        tie_word_embeddings: bool = True,
        decoder_bias: bool = False,
        ngpt: bool = False,
        base_scale: float = 1 / 960**0.5,
        **kwargs: Any,
    ) -> None:
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size ({hidden_size}) must be a multiple of num_attention_heads "
                f"({num_attention_heads})"
            )
        if rope and hidden_size // num_attention_heads % 2:
            raise ValueError("rope=True needs an even hidden_size / num_attention_heads")
        for name, value, allowed in (
            ("hidden_act", hidden_act.lower(), ("swiglu", "gelu")),
            ("classifier_activation", classifier_activation, tuple(CLASSIFIER_ACTIVATIONS)),
            ("classifier_pooling", classifier_pooling, ("cls", "avg")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, not {value!r}")
        if ngpt and not rope:
            raise ValueError("ngpt=True needs rope=True: it has no learned positions")
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.embedding_init_range = embedding_init_range
        self.decoder_init_range = decoder_init_range
        self.classifier_init_range = classifier_init_range
        self.norm_eps = norm_eps
        self.vocab_size = vocab_size
        # An attribute `max_length` would be a setting of text generation to transformers.
        self.max_position_embeddings = max_length or max_position_embeddings or 1024
        self.rms_norm = rms_norm
        self.rope = rope
        self.rope_theta = rope_theta
        # Not under its own name, which transformers 5 turns into another.
        self.rotary_scaling = dict(rope_scaling or {})
        self.hidden_act = hidden_act.lower()
        self.dropout = dropout
        self.classifier_dropout = dropout if classifier_dropout is None else classifier_dropout
        self.classifier_activation = classifier_activation
        self.classifier_pooling = classifier_pooling
        self.decoder_bias = decoder_bias
        self.ngpt = ngpt
        self.base_scale = base_scale
        super().__init__(
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings and not ngpt,
            **kwargs,
        )

    def to_dict(self) -> dict:
        """Without the generation length that transformers 4 gives every configuration.

        ``rope_scaling`` is left out where it is empty: transformers 5 warns of the key.
        """
        values = super().to_dict()
        values.pop("max_length", None)
        if scaling := values.pop("rotary_scaling", None):
            values["rope_scaling"] = scaling
        return values


class Layout(NamedTuple):
    """How the tokens of a batch lie, and so how attention goes about them."""

    attention: str
    """``rows``: (B, S) rectangles under ``mask``; ``eager`` the same, returning its weights;
    ``documents`` and ``flash``: T tokens of documents laid end to end."""

    mask: Tensor | None = None
    """(B, 1, 1, S), True at keys that may be seen; ``None`` if all may. (B, 1 or H, S, S), bool or
    additive, where that depends on the query."""

    places: Tensor | None = None
    """(T,) where each token stands among the B * S; ``None`` if nothing was left out."""

    runs: tuple = ()
    """Of ``documents``: (number, length) of neighbours of equal length."""

    cu_seqlens: Tensor | None = None
    """Of ``flash``: int32 bounds of the documents, with ``max_seqlen`` the longest."""

    max_seqlen: int = 0


def read_mask(attention_mask: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor | None]:
    """(B, S) True at tokens that may be attended to, and what each query sees if they differ.

    The mask may be bool, 0/1 or additive (0 / -inf), of the shape (B, S), or (B, S, S) or
    (B, 1 or H, 1 or S, S) with queries before keys; there a token is kept that any query sees. What
    queries see is (B, 1 or H, S, S), bool or to be added to the scores. A query that sees no key
    would be all NaN: it may see everything, and means nothing.
    """
    seen = keep = seen_keys(attention_mask, shape)
    while keep.dim() > 2:
        keep = keep.any(1)
    keep = keep.expand(shape)
    if seen.dim() == 2 or seen.shape[-2] != shape[1]:
        return keep, None
    if seen.dim() == 3:
        attention_mask, seen = attention_mask[:, None], seen[:, None]
    sees_none = ~seen.any(-1, keepdim=True)
    if not is_additive(attention_mask):
        return keep, seen | sees_none
    return keep, attention_mask.masked_fill(~seen, -torch.inf).masked_fill(sees_none, 0.0)


def seen_keys(attention_mask: Tensor, shape: torch.Size) -> Tensor:
    """True where the mask lets attention through, in the mask's own shape."""
    rows, places = shape
    size = tuple(attention_mask.shape)
    by_query = len(size) in (3, 4) and size[0] in (1, rows) and size[-2] in (1, places)
    if size != (rows, places) and not (by_query and size[-1] == places):
        raise ValueError(
            f"attention_mask must have the shape of the tokens, {(rows, places)}, or "
            f"{(rows, places, places)} or {(rows, 1, places, places)} with queries before keys, "
            f"not {size}"
        )
    if not attention_mask.is_floating_point():
        return attention_mask != 0
    if not fixed_shapes() and attention_mask.isnan().any():
        raise ValueError("attention_mask contains NaN")
    if not is_additive(attention_mask):
        return attention_mask != 0
    return attention_mask >= 0 if attention_mask.dim() == 2 else attention_mask > BLOCKED


BLOCKED = -1e4
"""Additive masks with queries may hold biases; what is at most this much blocks a key."""


def is_additive(attention_mask: Tensor) -> bool:
    """Whether a mask is added to the scores (0 / -inf) and does not mark tokens to keep (1 / 0)."""
    if not attention_mask.is_floating_point():
        return False
    return bool((attention_mask.min() < 0) | (attention_mask.max() <= 0))


def lay_out(keep: Tensor | None, pairs: Tensor | None, shape: torch.Size, attention: str) -> Layout:
    """Prepare ``attention`` for the tokens of ``keep`` (all of them if ``None``)."""
    if pairs is not None:
        return Layout("eager" if attention == "eager" else "rows", mask=pairs)
    if attention in ("rows", "eager"):
        if keep is None:
            return Layout(attention)
        # A row without any key would be all NaN: its tokens may see everything, and mean nothing.
        keep = keep | ~keep.any(-1, keepdim=True)
        return Layout(attention, mask=keep[:, None, None])
    if keep is None:
        lengths, places = [shape[1]] * shape[0], None
    else:
        order = keep.sum(-1).argsort(stable=True)  # documents of equal length become neighbours
        keep = keep[order]
        rows, columns = keep.nonzero(as_tuple=True)
        lengths, places = keep.sum(-1).tolist(), order[rows] * shape[1] + columns
    if attention == "documents":
        runs = tuple((len(list(equal)), length) for length, equal in groupby(lengths) if length)
        return Layout(attention, places=places, runs=runs)
    device = None if keep is None else keep.device
    bounds = torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32)
    return Layout(attention, places=places, cu_seqlens=bounds, max_seqlen=max(lengths))


def without_padding(x: Tensor, layout: Layout) -> Tensor:
    """(B, S, ...) to (T, ...), the tokens left out dropped; rectangles stay as they are."""
    if layout.attention in ("rows", "eager"):
        return x
    x = x.flatten(0, 1)
    return x if layout.places is None else x.index_select(0, layout.places)


def with_padding(x: Tensor, layout: Layout, shape: torch.Size) -> Tensor:
    """The inverse of ``without_padding``; zeros where tokens were left out."""
    if layout.attention in ("rows", "eager"):
        return x
    if layout.places is not None:
        x = x.new_zeros(shape.numel(), *x.shape[1:]).index_copy(0, layout.places, x)
    return x.unflatten(0, shape)


def rotary_table(positions: Tensor, head_width: int, theta: float, scaling: dict) -> Tensor:
    """(..., D / 2, 2) cosines and sines that turn the pairs of channels of a head, in fp32.

    Recomputed in each forward pass: a buffer would come back as garbage from loading on the meta
    device, be rounded by ``.to(bfloat16)``, and end at the trained length.
    """
    even = torch.arange(0, head_width, 2, dtype=torch.float32, device=positions.device)
    frequencies, height = theta ** (-even / head_width), 1.0
    match scaling.get("rope_type", "default"):
        case "linear":
            frequencies = frequencies / scaling["factor"]
        case "yarn":
            frequencies, height = yarn(frequencies, theta, scaling)
        case "llama3":
            frequencies = llama3(frequencies, scaling)
    angles = positions[..., None].float() * frequencies
    table = torch.stack((angles.cos(), angles.sin()), -1)
    return table if height == 1.0 else table * height


def yarn(frequencies: Tensor, theta: float, scaling: dict) -> tuple[Tensor, float]:
    """Scaled frequencies and the factor of cosines and sines (arXiv 2309.00071, section 3.4)."""
    factor, trained = scaling["factor"], scaling["original_max_position_embeddings"]
    width = 2 * len(frequencies)

    def channel(rotations: float) -> float:  # that turns so often over the trained length
        return width * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    first = channel(float(scaling.get("beta_fast") or 32))
    last = channel(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    if first == last:
        last += 0.001
    place = torch.arange(len(frequencies), dtype=torch.float32, device=frequencies.device)
    slow = ((place - first) / (last - first)).clamp(0, 1)
    height = scaling.get("attention_factor")
    if height is None:
        height = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1
    return frequencies / factor * slow + frequencies * (1 - slow), float(height)


def llama3(frequencies: Tensor, scaling: dict) -> Tensor:
    """Waves longer than the trained length are stretched by the factor, short ones stay."""
    factor, low, high = (scaling[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies / factor * (1 - kept) + frequencies * kept


def fixed_shapes() -> bool:
    """Whether the model is being compiled or traced: control flow must not depend on values."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def turn(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate the interleaved pairs of channels of ``x`` (..., H, 2, D) by their token's angle."""
    pairs = x.float().unflatten(-1, (-1, 2))  # (..., H, 2, D / 2, 2)
    rotary = rotary[..., None, None, :, :]
    if fixed_shapes():  # neither inductor nor ONNX has complex numbers; without them they are fast
        (real, imaginary), (cos, sin) = pairs.unbind(-1), rotary.unbind(-1)
        turned = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), -1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary))
    return turned.flatten(-2).to(x.dtype)


def attend(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, dropout: float
) -> tuple[Tensor, Tensor | None]:
    """softmax(scale q k^T) v of (..., H, D) tensors, and (B, H, S, S) weights if ``eager``."""
    if layout.attention == "flash":
        bounds, longest = layout.cu_seqlens, layout.max_seqlen
        return flash_attn_varlen_func(
            q, k, v, bounds, bounds, longest, longest, dropout_p=dropout, softmax_scale=scale
        ), None
    if layout.attention == "documents":
        return attend_documents(q, k, v, layout.runs, scale, dropout), None
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, S, D)
    mask = layout.mask
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    if layout.attention == "rows":
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale
        )
        return out.transpose(1, 2), None
    scores = q @ k.transpose(-1, -2) * scale
    if mask is not None and mask.is_floating_point():
        scores = scores + mask
    elif mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return (F.dropout(weights, dropout, dropout > 0) @ v).transpose(1, 2), weights


def attend_documents(
    q: Tensor, k: Tensor, v: Tensor, runs: tuple, scale: float, dropout: float
) -> Tensor:
    """Neighbours of equal length form rectangles without padding and without a copy."""
    outputs = []
    # Not slices: the gradient of each would be as long as the whole batch.
    sizes = [number * length for number, length in runs]
    for (number, length), *parts in zip(runs, *(x.split(sizes) for x in (q, k, v)), strict=True):
        rows = (part.unflatten(0, (number, length)).transpose(1, 2) for part in parts)
        out = F.scaled_dot_product_attention(*rows, dropout_p=dropout, scale=scale)
        outputs.append(out.transpose(1, 2).flatten(0, 1))  # (number * length, H, D)
    return torch.cat(outputs) if outputs else v


class SwiGLU(nn.Module):
    """w3(silu(w1 x) * w2 x), without biases (arXiv 2002.05202)."""

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__()
        width = -(-int(2 * config.intermediate_size / 3) // 8) * 8
        self.w1 = nn.Linear(config.hidden_size, width, bias=False)
        self.w2 = nn.Linear(config.hidden_size, width, bias=False)
        self.w3 = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


def feed_forward(config: NeoBERTConfig) -> nn.Module:
    """SwiGLU, or two layers with the exact GELU between them."""
    if config.hidden_act == "swiglu":
        return SwiGLU(config)
    width = config.intermediate_size
    return nn.Sequential(
        nn.Linear(config.hidden_size, width, bias=False),
        nn.GELU(),
        nn.Linear(width, config.hidden_size, bias=False),
    )


class NeoBERTRMSNorm(nn.RMSNorm):
    """RMSNorm (arXiv 1910.07467), written out for exporters that do not know the operator."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        if not torch.jit.is_tracing():
            return super().forward(x)
        exact = x.float()
        scaled = exact * (exact.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (scaled * self.weight).to(x.dtype)


def norm(config: NeoBERTConfig) -> nn.Module:
    """RMSNorm, or LayerNorm with a bias."""
    return (NeoBERTRMSNorm if config.rms_norm else nn.LayerNorm)(
        config.hidden_size, eps=config.norm_eps
    )


class NeoBERTAttention(GradientCheckpointingLayer):
    """What both kinds of block are built on.

    The rows of ``qkv`` are grouped per head: D of Q, D of K, D of V, then the next head.
    """

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_width = config.hidden_size // self.num_heads
        self.scale = self.head_width**-0.5
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def attention(
        self, x: Tensor, rotary: Tensor | None, layout: Layout
    ) -> tuple[Tensor, Tensor | None]:
        """(..., E) to (..., E), and the weights of attention if ``layout`` requests them."""
        heads = self.qkv(x).unflatten(-1, (self.num_heads, 3, -1))
        qk, v = heads[..., :2, :], heads[..., 2, :]  # (..., H, 2, D), (..., H, D)
        if rotary is not None:
            qk = turn(qk, rotary)
        q, k = self.scale_heads(qk).unbind(-2)
        dropout = self.dropout if self.training else 0.0
        out, weights = attend(q, k, v, layout, self.scale, dropout)
        return self.wo(out.flatten(-2)), weights

    def scale_heads(self, qk: Tensor) -> Tensor:
        """Nothing here; nGPT puts queries and keys on the unit sphere."""
        return qk


class NeoBERTBlock(NeoBERTAttention):
    """Attention and feed-forward layer, each after its norm and added to the stream."""

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__(config)
        self.attention_norm = norm(config)
        self.ffn_norm = norm(config)
        self.ffn = feed_forward(config)

    def forward(
        self, x: Tensor, rotary: Tensor | None, layout: Layout
    ) -> tuple[Tensor, Tensor | None]:
        """(..., E) to (..., E), and the weights of attention if ``layout`` requests them."""
        out, weights = self.attention(self.attention_norm(x), rotary, layout)
        x = x + F.dropout(out, self.dropout, self.training)
        out = F.dropout(self.ffn(self.ffn_norm(x)), self.dropout, self.training)
        return x + out, weights


class NeoBERTNormalizedBlock(NeoBERTAttention):
    """nGPT: ``x <- n(x + alpha (n(f(x)) - x))`` for attention, then feed-forward; n: unit length.

    The learned vectors ``attn_alpha``, ``mlp_alpha`` and ``sqk`` are stored times ``base_scale``.
    """

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__(config)
        width, inner = config.hidden_size, config.intermediate_size
        self.base_scale = config.base_scale
        self.scale = self.head_width**0.5
        self.c_fc = nn.Linear(width, 2 * inner, bias=False)
        self.mlp_c_proj = nn.Linear(inner, width, bias=False)
        self.attn_alpha = nn.Parameter(torch.empty(width))
        self.mlp_alpha = nn.Parameter(torch.empty(width))
        self.sqk = nn.Parameter(torch.empty(width))
        self.suv = nn.Parameter(torch.empty(2 * inner))

    def forward(
        self, x: Tensor, rotary: Tensor | None, layout: Layout
    ) -> tuple[Tensor, Tensor | None]:
        """(..., E) to (..., E), and the weights of attention if ``layout`` requests them."""
        out, weights = self.attention(x, rotary, layout)
        x = self._towards(x, out, self.attn_alpha)
        scale = self.suv * x.shape[-1] ** 0.5
        value, gate = (scale * self.c_fc(x)).chunk(2, -1)
        return self._towards(x, self.mlp_c_proj(value * F.silu(gate)), self.mlp_alpha), weights

    def scale_heads(self, qk: Tensor) -> Tensor:
        """Unit queries and keys, times the learned scale of each channel."""
        learned = (self.sqk / self.base_scale).view(self.num_heads, 1, self.head_width)
        return (learned * unit_norm(qk)).to(qk.dtype)

    def _towards(self, x: Tensor, proposal: Tensor, alpha: Tensor) -> Tensor:
        share = (alpha * (0.05 / self.base_scale)).abs()
        proposal = F.dropout(proposal, self.dropout, self.training)
        start, end = unit_norm(x), unit_norm(proposal)
        return unit_norm(start + share * (end - start))


def unit_norm(x: Tensor) -> Tensor:
    """``x / (|x| + 1e-8)`` over the last axis, in the type of ``x``."""
    lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x / (lengths + 1e-8)).to(x.dtype)


class NeoBERTPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about all classes below.

    The ``inputs`` of a model with a head are further arguments of :meth:`NeoBERT.forward`.
    """

    config_class = NeoBERTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _input_embed_layer = "encoder"
    _no_split_modules = ["NeoBERTBlock", "NeoBERTNormalizedBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True

    def _init_weights(self, module: nn.Module) -> None:
        """Through ``nn.init``, which transformers 5 keeps away from loaded weights."""
        if isinstance(module, nn.Embedding):
            reach = self.config.embedding_init_range
            nn.init.uniform_(module.weight, -reach, reach)
        elif isinstance(module, nn.Linear):
            self._init_linear(module.weight)
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, NeoBERTNormalizedBlock):
            for scale in (module.attn_alpha, module.mlp_alpha, module.sqk):
                nn.init.constant_(scale, self.config.base_scale)
            nn.init.ones_(module.suv)
        elif isinstance(module, NeoBERTLMHead) and self.config.ngpt:
            nn.init.constant_(module.sz, self.config.base_scale)
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def _init_linear(self, weight: Tensor) -> None:
        reach = self.config.decoder_init_range
        nn.init.uniform_(weight, -reach, reach)


class NeoBERT(NeoBERTPreTrainedModel):
    """The encoder: one vector per token.

    ``position_ids`` count from 0 with rotary positions. Learned ones are rows of their table: 0 is
    for padding, 1 for a row's first token.
    """

    # Other classes' heads, in weights that were saved with one.
    _keys_to_ignore_on_load_unexpected = [r"^(decoder|dense|classifier|qa_outputs)\.", r"^sz$"]

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__(config)
        self.encoder = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        if not config.rope:
            rows = config.max_position_embeddings + 1
            self.positional_embedding = nn.Embedding(rows, config.hidden_size, padding_idx=0)
        block = NeoBERTNormalizedBlock if config.ngpt else NeoBERTBlock
        self.transformer_encoder = nn.ModuleList(
            block(config) for _ in range(config.num_hidden_layers)
        )
        self.layer_norm = nn.Identity() if config.ngpt else norm(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutput:
        """Hidden states: the embeddings first, the output last, its norm applied.

        ``token_type_ids`` are taken and not used: the model has no segments.
        """
        config = self.config
        output_attentions = (
            config.output_attentions if output_attentions is None else output_attentions
        )
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        x = self._embed(input_ids, inputs_embeds)  # (B, S, E)
        shape = x.shape[:2]
        attention = self._attention(x, output_attentions)
        keep = pairs = None
        if attention_mask is not None:
            keep, pairs = read_mask(attention_mask.to(x.device), shape)
        if keep is not None and attention not in ("rows", "eager") and keep.all():
            keep = None
        layout = lay_out(keep, pairs, shape, attention)
        positions = self._positions(input_ids, position_ids, keep, x)
        rotary = None
        if config.rope:
            rotary = rotary_table(
                without_padding(positions, layout),
                config.hidden_size // config.num_attention_heads,
                config.rope_theta,
                config.rotary_scaling,
            )
        else:
            x = x + self.positional_embedding(positions)
        x = without_padding(x, layout)
        states, weights = [], []
        for block in self.transformer_encoder:
            if output_hidden_states:
                states.append(with_padding(x, layout, shape))
            x, attended = block(x, rotary, layout)
            weights.append(attended)
        x = with_padding(self.layer_norm(x), layout, shape)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=(*states, x) if output_hidden_states else None,
            attentions=tuple(weights) if output_attentions else None,
        )

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is not None:
            return inputs_embeds
        if input_ids.dim() != 2 or input_ids.is_floating_point():
            raise ValueError(
                "input_ids must be integers of the shape (rows, places), not "
                f"{input_ids.dtype} of the shape {tuple(input_ids.shape)}"
            )
        return self.encoder(input_ids)

    def _attention(self, x: Tensor, output_attentions: bool) -> str:
        implementation = self.config._attn_implementation
        if output_attentions or implementation == "eager":
            return "eager"
        if "flash" in implementation:
            if (
                flash_attn_varlen_func is None
                or x.device.type != "cuda"
                or x.dtype == torch.float32
            ):
                raise ValueError(
                    f"attn_implementation={implementation!r} needs the package flash-attn, a CUDA "
                    f"device and dtype=torch.bfloat16 or float16; here: {x.device}, {x.dtype}"
                )
            return "flash"
        return "rows" if fixed_shapes() or x.device.type != "cpu" else "documents"

    def _positions(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        keep: Tensor | None,
        x: Tensor,
    ) -> Tensor:
        """(B, S). Padding on the left moves nothing: positions count the tokens that are kept."""
        shape = x.shape[:2]
        if position_ids is not None:
            positions = position_ids.to(x.device).expand(shape)
        elif self.config.rope and keep is None:
            positions = torch.arange(shape[1], device=x.device).expand(shape)
        else:
            text = torch.ones(shape, dtype=torch.bool, device=x.device) if keep is None else keep
            if self.config.rope:
                return (text.long().cumsum(-1) - 1).clamp(min=0)
            if input_ids is not None:
                text = text & (input_ids != self.config.pad_token_id)
            positions = text.long().cumsum(-1) * text
        longest = self.config.max_position_embeddings
        if not self.config.rope and shape[1] > longest and positions.max() > longest:
            raise ValueError(
                f"{int(positions.max())} tokens in a text, but learned positions end at {longest}"
            )
        return positions


class NeoBERTLMHead(NeoBERTPreTrainedModel):
    """The encoder and a decoder that predicts masked tokens; nGPT has a scale of each logit."""

    _tied_weights_keys = {"decoder.weight": "model.encoder.weight"}

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__(config)
        self.model = NeoBERT(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=config.decoder_bias)
        if config.ngpt:
            self.sz = nn.Parameter(torch.empty(config.vocab_size))
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder, whose weight is the table of tokens unless it is untied."""
        return self.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Called by ``resize_token_embeddings``."""
        self.decoder = value

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Embedding:
        """As transformers does it; new tokens of nGPT start with the scale 1."""
        table = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        if self.config.ngpt and len(self.sz) != table.num_embeddings:
            old = self.sz.data[: table.num_embeddings]
            new = old.new_full((table.num_embeddings - len(old),), self.config.base_scale)
            self.sz = nn.Parameter(torch.cat((old, new)))
        return table

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> MaskedLMOutput:
        """Logits (B, S, V); the loss is the mean over ``labels`` (B, S) that are not -100."""
        out = self.model(input_ids, attention_mask, return_dict=True, **inputs)
        logits = self._decode(out.last_hidden_state)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten().to(logits.device))
        return MaskedLMOutput(loss, logits, out.hidden_states, out.attentions)

    def _decode(self, hidden: Tensor) -> Tensor:
        if not self.config.ngpt:
            return self.decoder(hidden)
        scale = self.sz / self.config.base_scale
        return F.linear(hidden, self.decoder.weight * scale[:, None], self.decoder.bias)


class NeoBERTWithNewHead(NeoBERTPreTrainedModel):
    """The encoder and layers that pretraining does not know, which start normally distributed."""

    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^sz$"]

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = NeoBERT(config)
        self.dropout = nn.Dropout(config.classifier_dropout)

    def _init_linear(self, weight: Tensor) -> None:
        nn.init.normal_(weight, std=self.config.classifier_init_range)


class ClassifierHead(nn.Linear):
    """The last layer of a classifier, which applies the dense layer beside it first.

    The dense layer belongs to the model, where the published weights have it. But PEFT trains and
    saves a copy of ``classifier`` alone, so a copy takes the dense layer along, and gives it back
    where it is put into a model again.
    """

    def __init__(self, model: "NeoBERTWithClassifier") -> None:
        config = model.config
        super().__init__(config.hidden_size, model.num_scores)
        self._owner = (model,)  # in a tuple, it is no part of this module
        self._activation = CLASSIFIER_ACTIVATIONS[config.classifier_activation]
        self._dropout = config.classifier_dropout

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, E) to (B, scores)."""
        x = F.dropout(pooled, self._dropout, self.training)
        if self._activation is not None:
            dense = self._modules.get("dense") or self._owner[0].dense
            x = F.dropout(self._activation(dense(x)), self._dropout, self.training)
        return super().forward(x)

    def __deepcopy__(self, memo: dict) -> "ClassifierHead":
        owner = self._owner[0]
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        with_owner = id(owner) in memo  # then the whole model is being copied
        for name, value in self.__dict__.items():
            if name != "_owner" or with_owner:
                new.__dict__[name] = deepcopy(value, memo)
        if not with_owner:
            new.__dict__["_owner"] = self._owner
            if self._activation is not None and "dense" not in self._modules:
                new.dense = deepcopy(getattr(owner.dense, "base_layer", owner.dense), memo)
        return new


class NeoBERTWithClassifier(NeoBERTWithNewHead):
    """A dense layer and a classifier on one vector per text."""

    def __init__(self, config: NeoBERTConfig, num_scores: int) -> None:
        super().__init__(config)
        self.num_scores = num_scores
        if config.classifier_activation != "none":
            self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = ClassifierHead(self)
        self.post_init()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "classifier" and isinstance(value, ClassifierHead):
            value._owner = (self,)
            if (dense := value._modules.pop("dense", None)) is not None:
                self.dense = dense
        super().__setattr__(name, value)

    def _pooled(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, E): the first token that is kept (padding may be on the left), or the mean."""
        average = self.config.classifier_pooling == "avg"
        if attention_mask is None:
            return hidden.mean(1) if average else hidden[:, 0]
        keep, _ = read_mask(attention_mask.to(hidden.device), hidden.shape[:2])
        if average:
            total = (hidden * keep[..., None]).sum(1)
            return total / keep.sum(1, keepdim=True).clamp(min=1).to(hidden.dtype)
        first = keep.int().argmax(-1)[:, None, None]
        return hidden.gather(1, first.expand(-1, 1, hidden.shape[-1]))[:, 0]


class NeoBERTForSequenceClassification(NeoBERTWithClassifier):
    """Classes, several labels, or numbers (``problem_type``) of a text."""

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__(config, config.num_labels)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        """Logits (B, labels). One label means regression unless ``problem_type`` says otherwise."""
        out = self.model(input_ids, attention_mask, return_dict=True, **inputs)
        logits = self.classifier(self._pooled(out.last_hidden_state, attention_mask))
        loss = None if labels is None else self._loss(logits, labels.to(logits.device))
        return SequenceClassifierOutput(loss, logits, out.hidden_states, out.attentions)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        problem = self.config.problem_type
        if problem is None and self.num_labels == 1:
            problem = "regression"
        if problem is None:
            problem = "multi_label" if labels.is_floating_point() else "single_label"
        if problem == "regression":
            return F.mse_loss(logits.view(-1).float(), labels.view(-1).float())
        if problem.startswith("single_label"):
            return F.cross_entropy(logits.float(), labels.view(-1))
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())


class NeoBERTForMultipleChoice(NeoBERTWithClassifier):
    """A score for each of several texts, the choices, of which one is right."""

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__(config, 1)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> MultipleChoiceModelOutput:
        """Logits (B, choices) from inputs (B, choices, S); the loss is over the right choice."""
        choices = (input_ids if input_ids is not None else inputs_embeds).shape[1]
        flat = [
            None if x is None else x.flatten(0, 1)
            for x in (input_ids, attention_mask, position_ids, inputs_embeds)
        ]
        out = self.model(
            flat[0],
            flat[1],
            position_ids=flat[2],
            inputs_embeds=flat[3],
            return_dict=True,
            **inputs,
        )
        logits = self.classifier(self._pooled(out.last_hidden_state, flat[1])).view(-1, choices)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.float(), labels.view(-1).to(logits.device))
        return MultipleChoiceModelOutput(loss, logits, out.hidden_states, out.attentions)


class NeoBERTForTokenClassification(NeoBERTWithNewHead):
    """A class for every token."""

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> TokenClassifierOutput:
        """Logits (B, S, labels); the loss is the mean over ``labels`` (B, S) that are not -100."""
        out = self.model(input_ids, attention_mask, return_dict=True, **inputs)
        logits = self.classifier(self.dropout(out.last_hidden_state))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten().to(logits.device))
        return TokenClassifierOutput(loss, logits, out.hidden_states, out.attentions)


class NeoBERTForQuestionAnswering(NeoBERTWithNewHead):
    """Where in a text an answer starts and ends."""

    def __init__(self, config: NeoBERTConfig) -> None:
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **inputs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Two times logits (B, S). Positions (B,) outside of the text are not learnt from."""
        out = self.model(input_ids, attention_mask, return_dict=True, **inputs)
        start, end = self.qa_outputs(self.dropout(out.last_hidden_state)).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            outside = start.shape[1]
            targets = [
                positions.view(-1).to(start.device).clamp(0, outside)
                for positions in (start_positions, end_positions)
            ]
            losses = [
                F.cross_entropy(logits.float(), target, ignore_index=outside)
                for logits, target in zip((start, end), targets, strict=True)
            ]
            loss = (losses[0] + losses[1]) / 2
        return QuestionAnsweringModelOutput(loss, start, end, out.hidden_states, out.attentions)
