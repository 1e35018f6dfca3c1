"""The ``model`` section: the shape of the encoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, TypeVar, get_args

from neobert.config.checks import (
    Above0,
    Count,
    Dropout,
    NotNegative,
    Positive,
    broken,
    one_of,
    require,
)
from neobert.config.section import Section, mapping_problems

T = TypeVar("T")

Part = Literal[
    "shape", "positions", "vocabulary", "initialisation", "training", "machine", "origin"
]
"""What a setting of the model belongs to; :func:`fields_of` lists the settings of a part.

``shape``: fixed by the weights. ``positions``: fixed by the weights where positions are learned;
with RoPE a run may train longer documents. ``vocabulary``: fixed by the tokenizer.
``initialisation``: how fresh weights are drawn. ``training``: used in training only. ``machine``:
backends. ``origin``: where the weights come from.
"""

PARTS: tuple[Part, ...] = get_args(Part)

ACTIVATIONS = ("swiglu", "gelu")


def _of(part: Part, default: T) -> T:
    """A field of :class:`ModelConfig`."""
    return field(default=default, metadata={"part": part})


MOST_LAYERS, MOST_PARAMETERS = 10_000, 1e12
"""More is a slip of the pen, which would take hours and all memory to fail."""


@dataclass(kw_only=True)
class ModelConfig(Section):
    """An encoder of the NeoBERT family (arXiv 2502.19587)."""

    name: str | None = _of("origin", None)
    """Hub id or folder of the model, with ``from_hub``; else a label of the run."""

    hidden_size: Positive = _of("shape", 768)
    """Width of the hidden states. A multiple of ``num_attention_heads``."""

    num_hidden_layers: Positive = _of("shape", 12)
    """Blocks."""

    num_attention_heads: Positive = _of("shape", 12)
    """Attention heads; with ``rope`` the width of a head must be even."""

    intermediate_size: Positive = _of("shape", 3072)
    """Width of the feed-forward layer. SwiGLU uses two thirds of it, rounded up to a multiple of
    8."""

    max_position_embeddings: Positive = _of("positions", 512)
    """Longest document in tokens: rows of the learned table, or length that RoPE is trained for."""

    vocab_size: Positive = _of("vocabulary", 30522)
    """Tokens. Pretraining takes the tokenizer's, rounded up to a multiple of 128."""

    rope: bool = _of("shape", True)
    """Rotary positions (true) or a learned table (false)."""

    rope_theta: Above0 = _of("positions", 10000.0)
    """Base of the rotary frequencies; a larger one suits longer documents."""

    rope_scaling: dict[str, Any] = field(default_factory=dict, metadata={"part": "positions"})
    """Scaling of the rotary frequencies for longer documents, in the words of transformers:
    ``{rope_type: yarn, factor: 4, original_max_position_embeddings: 1024}`` (also ``linear``,
    ``llama3``); empty: none."""

    rms_norm: bool = _of("shape", True)
    """RMSNorm (true) or LayerNorm (false)."""

    hidden_act: Annotated[str, one_of(*ACTIVATIONS)] = _of("shape", "swiglu")
    """Feed-forward activation: ``swiglu`` or ``gelu``."""

    dropout_prob: Dropout = _of("training", 0.0)
    """Dropout of attention weights and of each sub-layer's output, in [0, 1)."""

    norm_eps: Above0 = _of("shape", 1e-5)
    """Added under the root of the norms."""

    embedding_init_range: NotNegative = _of("initialisation", 0.02)
    """Half-width of the uniform distribution that embeddings start from."""

    decoder_init_range: NotNegative = _of("initialisation", 0.02)
    """Half-width of the uniform distribution that an untied decoder and the matrices start from."""

    classifier_init_range: NotNegative = _of("initialisation", 0.02)
    """``glue.classifier_init_range``, wherever only this one is set."""

    tie_word_embeddings: bool = _of("shape", True)
    """Whether the decoder of masked words is the embedding matrix."""

    attn_backend: Annotated[str, one_of("sdpa", "flash_attn_varlen")] = _of("machine", "sdpa")
    """``sdpa``: the portable paths; ``flash_attn_varlen``: a flash-attention kernel where one
    runs."""

    kernel_backend: Annotated[str, one_of("auto", "liger", "torch")] = _of("machine", "auto")
    """``auto``: Liger's kernels on CUDA where installed; ``liger``: those or an error;
    ``torch``."""

    ngpt: bool = _of("shape", False)
    """Normalised transformer, nGPT (arXiv 2410.01131)."""

    base_scale: Above0 = _of("shape", 1 / (960**0.5))
    """nGPT's scale of initial weights and scalings; the paper takes 1/sqrt(hidden_size)."""

    pad_token_id: Count = _of("vocabulary", 0)
    """Id of padding. Pretraining takes the tokenizer's."""

    from_hub: bool = _of("origin", False)
    """Fine-tuning and mteb: the transformers model ``name`` instead of ours."""

    init_from: str | None = _of("origin", None)
    """Pretraining and fine-tuning start from these weights: a run (``pretrained_checkpoint`` says
    which checkpoint), a checkpoint, a published folder, or a hub id; strict."""

    def combinations(self) -> list[str]:
        problems = rope_scaling_problems("model.rope_scaling", self.rope_scaling)
        problems += require(
            self.rope or not self.rope_scaling,
            "model.rope_scaling has no effect without model.rope=true",
        )
        return problems + self._head_problems() + self._size_problems()

    def _size_problems(self) -> list[str]:
        rows = self.vocab_size + (0 if self.rope else self.max_position_embeddings)
        layer = 4 * self.hidden_size + 3 * self.intermediate_size
        numbers = self.hidden_size * (rows + self.num_hidden_layers * layer)
        return require(
            numbers <= MOST_PARAMETERS and self.num_hidden_layers <= MOST_LAYERS,
            f"model: {self.num_hidden_layers:,} layers of {self.hidden_size:,} × "
            f"{self.intermediate_size:,} and {rows:,} rows of embeddings are {numbers:.1e} "
            f"parameters; at most {MOST_LAYERS:,} layers and {MOST_PARAMETERS:.0e} parameters",
        )

    def _head_problems(self) -> list[str]:
        if self.num_attention_heads < 1:
            return []
        width, rest = divmod(self.hidden_size, self.num_attention_heads)
        problems = require(
            rest == 0,
            f"model.hidden_size={self.hidden_size}: must be a multiple of "
            f"model.num_attention_heads={self.num_attention_heads}",
        )
        if not problems and self.rope:
            problems += require(
                width % 2 == 0,
                f"model.rope=true needs heads of even width, these have {width}: change "
                "model.hidden_size or model.num_attention_heads, or set model.rope=false",
            )
        return problems


def fields_of(*parts: Part) -> tuple[str, ...]:
    """Names of the settings that belong to one of ``parts``, in the order of the section."""
    return tuple(field.name for field in fields(ModelConfig) if field.metadata["part"] in parts)


def with_shape_of(trained: ModelConfig, settings: ModelConfig) -> ModelConfig:
    """``settings`` of a run that starts from weights of ``trained``: the weights decide the shape,
    the run everything else (dropout, backends, initialisation of what is new)."""
    names = fields_of("shape", "positions", "vocabulary")
    return replace(settings, **{name: getattr(trained, name) for name in names})


_LENGTH = {"factor": Above0, "original_max_position_embeddings": Above0}
_OPTIONAL = {"attention_factor": Any, "beta_fast": Above0, "beta_slow": Above0, "truncate": Any}
ROPE_TYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": Above0},
    "yarn": _LENGTH | _OPTIONAL,
    "llama3": _LENGTH | {"low_freq_factor": Above0, "high_freq_factor": Above0},
}
"""Keys of each type of rotary scaling, which it needs unless they are optional."""


def rope_scaling_problems(key: str, scaling: Mapping[str, Any]) -> list[str]:
    """What is wrong with a rotary scaling; empty if nothing is."""
    if not scaling:
        return []
    kind = scaling.get("rope_type")
    if problems := broken(f"{key}.rope_type", kind, one_of(*ROPE_TYPES)):
        return problems
    kinds = ROPE_TYPES[str(kind)]
    problems = mapping_problems(key, scaling, {"rope_type": str, **kinds})
    return problems + [
        f"{key}.{name}: rope_type={kind} needs it"
        for name in kinds
        if name not in scaling and name not in _OPTIONAL
    ]
