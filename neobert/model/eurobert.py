"""NeoBERT and ``eurobert`` of transformers (from 5.3): one architecture, two sets of names.

Both are pre-norm encoders with RMSNorm, SwiGLU and RoPE and without biases. They differ in the
names of settings and weights, in that ``eurobert`` keeps Q, K and V apart, and in the channel order
of RoPE: pairs are interleaved here and halves there, so the rows of Q and K are permuted. The
conversion is exact both ways. ``ultrabert`` (from transformers 5.20) has the same block under the
same names.

Letters: H heads, D head width, E model width.
"""

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from neobert.config.model import ModelConfig, rope_scaling_problems
from neobert.ops.swiglu import swiglu_width

EUROBERT, ULTRABERT = "eurobert", "ultrabert"
"""``model_type`` of ``config.json``."""

NAMES = {
    "encoder": "embed_tokens",
    "transformer_encoder": "layers",
    "attention_norm": "input_layernorm",
    "qkv": "self_attn.qkv",
    "wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn.w1": "mlp.gate_proj",
    "ffn.w2": "mlp.up_proj",
    "ffn.w3": "mlp.down_proj",
    "layer_norm": "norm",
    "decoder": "lm_head",
}
"""Parts of our names of weights, and of theirs; names of other heads are the same. Instead of
``self_attn.qkv`` they have one weight for each of ``PROJECTIONS``."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
PROJECTION = re.compile(rf"(.*self_attn\.)({'|'.join(PROJECTIONS)})\.weight")


def reasons_unsupported(config: ModelConfig) -> list[str]:
    """Why an encoder of these settings has no ``eurobert`` equivalent; empty if it has one."""
    settings = {
        "nGPT": config.ngpt,
        "learned positions": not config.rope,
        "LayerNorm": not config.rms_norm,
        "GELU": config.hidden_act.lower() != "swiglu",
    }
    return [name for name, applies in settings.items() if applies]


def eurobert_weights(weights: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Weights under their ``eurobert`` names, from those of the published NeoBERT layout.

    The names may have the prefix ``model.`` or not; names of heads other than the decoder stay.
    """
    renamed: dict[str, Tensor] = {}
    for ours, tensor in weights.items():
        name = _renamed(ours, NAMES)
        if name.endswith(".qkv.weight"):
            for part, rows in zip(PROJECTIONS, _split_qkv(tensor, num_heads), strict=True):
                renamed[name.replace("qkv", part)] = rows
        else:
            renamed[name] = tensor
    return renamed


def neobert_weights(weights: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """The inverse of :func:`eurobert_weights`. Raises ``ValueError`` for an unknown weight."""
    names = {published: ours for ours, published in NAMES.items()}
    renamed: dict[str, Tensor] = {}
    projections: dict[str, dict[str, Tensor]] = {}
    for published, tensor in weights.items():
        if projection := PROJECTION.fullmatch(published):
            name = _renamed(f"{projection[1]}qkv.weight", names)
            projections.setdefault(name, {})[projection[2]] = tensor
            continue
        name = _renamed(published, names)
        if "self_attn." in name or "mlp." in name:  # others have no place in the model
            raise ValueError(f"unexpected weight {published}")
        renamed[name] = tensor
    for name, parts in projections.items():
        if missing := [part for part in PROJECTIONS if part not in parts]:
            layer = name.removesuffix("qkv.weight")
            raise ValueError(f"{layer} lacks {', '.join(missing)}")
        renamed[name] = _join_qkv([parts[part] for part in PROJECTIONS], num_heads)
    return renamed


def eurobert_config(config: ModelConfig) -> dict[str, object]:
    """The settings of ``config.json`` that describe the encoder."""
    return {
        "model_type": EUROBERT,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.hidden_size // config.num_attention_heads,
        "intermediate_size": swiglu_width(config.intermediate_size),
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {
            "rope_type": "default",
            **config.rope_scaling,
            "rope_theta": config.rope_theta,
        },
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": config.dropout_prob,
        "initializer_range": config.classifier_init_range,  # of heads that are not stored
    }


def neobert_config(values: Mapping[str, object]) -> dict[str, object]:
    """The published NeoBERT's settings, from those of an ``eurobert`` ``config.json``.

    Raises ``ValueError`` with every reason why this encoder cannot represent the model.
    """
    ultra = values.get("model_type") == ULTRABERT
    defaults = ULTRABERT_DEFAULTS if ultra else DEFAULTS
    values = {**defaults, **{name: value for name, value in values.items() if value is not None}}
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    rope = rope if isinstance(rope, dict) else {}
    problems: list[str] = []
    if ultra:
        rope = of_layers if isinstance(of_layers := rope.get("full_attention"), dict) else rope
        layers = values.get("layer_types")
        if not isinstance(layers, list) or set(layers) != {"full_attention"}:
            problems = [
                f"layer_types is {layers}: only full attention in all layers has an equivalent"
            ]
    if problems := problems + _problems(values, rope):
        raise ValueError("; ".join(problems))
    width = values["intermediate_size"]
    assert isinstance(width, int)
    return {
        "hidden_size": values["hidden_size"],
        "num_hidden_layers": values["num_hidden_layers"],
        "num_attention_heads": values["num_attention_heads"],
        "intermediate_size": width * 3 // 2,  # SwiGLU takes two thirds of it
        "max_position_embeddings": values["max_position_embeddings"],
        "vocab_size": values["vocab_size"],
        "norm_eps": values["rms_norm_eps"],
        "rope_theta": rope.get("rope_theta") or values["rope_theta"],
        "rope_scaling": _scaling(rope),
        "tie_word_embeddings": values["tie_word_embeddings"],
        "pad_token_id": values["pad_token_id"],
        "rope": True,
        "rms_norm": True,
        "hidden_act": "swiglu",
    }


DEFAULTS: dict[str, object] = {
    "vocab_size": 128256,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "pad_token_id": 128001,
    "hidden_act": "silu",
}
"""``EuroBertConfig``'s defaults, for keys that a ``config.json`` leaves out."""

ULTRABERT_DEFAULTS = DEFAULTS | {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 2_560_000.0,
    "pad_token_id": 0,
}


def head_settings(values: Mapping[str, object]) -> Mapping[str, object]:
    """Settings of a classifier's head, under the names that the published NeoBERT's have.

    Raises ``ValueError`` for a head that has no equivalent.
    """
    if values.get("model_type") not in (EUROBERT, ULTRABERT):
        return values
    ultra = values.get("model_type") == ULTRABERT
    pooling = values.get("classifier_pooling") or ("cls" if ultra else "late")
    known = {"bos": "cls", "cls": "cls", "mean": "avg"}
    if pooling not in known:
        raise ValueError(
            f"classifier_pooling is {pooling!r}: only {', '.join(known)} have an equivalent"
        )
    return {
        "classifier_pooling": known[str(pooling)],
        "classifier_activation": "none" if ultra else "gelu",
    }


def _problems(values: Mapping[str, object], rope: Mapping[str, object]) -> list[str]:
    sizes = ("hidden_size", "num_attention_heads", "intermediate_size")
    problems = [
        f"{name} is {values[name]!r}, not a positive integer"
        for name in sizes
        if type(values[name]) is not int or int(str(values[name])) < 1
    ]
    if problems:
        return problems
    width, heads, inner = (int(str(values[name])) for name in sizes)
    groups = values.get("num_key_value_heads", heads)
    if groups != heads:
        problems.append(
            f"num_key_value_heads is {groups} with {heads} heads: grouped-query attention, which "
            "NeoBERT does not have"
        )
    if values.get("head_dim", width // heads) != width / heads:
        problems.append(f"head_dim is {values['head_dim']}, not hidden_size / num_attention_heads")
    if inner % 8:
        problems.append(f"intermediate_size is {inner}, not a multiple of 8")
    if values["hidden_act"] not in ("silu", "swish"):
        problems.append(f"hidden_act is {values['hidden_act']!r}, not 'silu'")
    for name in ("attention_bias", "mlp_bias"):
        if values.get(name):
            problems.append(f"{name} is true: NeoBERT's layers have no biases")
    return problems + rope_scaling_problems("rope_parameters", _scaling(rope))


def _scaling(rope: Mapping[str, object]) -> dict[str, Any]:
    """``model.rope_scaling``; empty without one. ``type`` is an older name of ``rope_type``."""
    scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "type")}
    kind = scaling.get("rope_type") or rope.get("type") or "default"
    return {} if kind == "default" else {**scaling, "rope_type": kind}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """``name`` with each part that is a key of ``names`` in its other form."""
    known = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![^.])(?:{known})(?![^.])", lambda part: names[part[0]], name)


def _order(head_width: int) -> list[int]:
    """Channels of a head as halves: the even ones, then the odd ones."""
    return list(chain(range(0, head_width, 2), range(1, head_width, 2)))


def _split_qkv(qkv: Tensor, num_heads: int) -> list[Tensor]:
    """(3E, E), grouped per head, to Q, K and V of (E, E) each."""
    parts = qkv.unflatten(0, (num_heads, 3, -1))  # (H, 3, D, E)
    order = _order(parts.shape[2])
    q, k, v = parts.unbind(1)
    return [part.flatten(0, 1).contiguous() for part in (q[:, order], k[:, order], v)]


def _join_qkv(parts: list[Tensor], num_heads: int) -> Tensor:
    q, k, v = (part.unflatten(0, (num_heads, -1)) for part in parts)  # (H, D, E)
    back = torch.tensor(_order(q.shape[1])).argsort()
    return torch.stack((q[:, back], k[:, back], v), dim=1).flatten(0, 2)
