"""Formats of stored models: names of settings and of weights.

The published NeoBERT layout comes in variants: feed-forward gates packed as ``ffn.w12`` (gate
above, value below), encoders saved without the ``model.`` prefix, the decoder below the encoder
(``model.decoder``), and prefixes of what wrapped the model in training (``module.``,
``_orig_mod.``, a LightningModule's ``model.``). In chandar-lab's, learned positions start after the
id of padding, and nGPT has two tensors that its model never uses.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from neobert.config.model import ModelConfig, fields_of
from neobert.model.eurobert import EUROBERT, ULTRABERT, neobert_config, neobert_weights

EMBEDDING, DECODER, DECODER_BIAS = "model.encoder.weight", "decoder.weight", "decoder.bias"
POSITIONS = "model.positional_embedding.weight"

Settings = Mapping[str, object]
Weights = Mapping[str, Tensor]
Translate = Callable[[Settings, Weights], tuple[Settings, dict[str, Tensor]]]
"""From the settings and weights of a folder to those of the published layout, as ours reads it.
Raises ``ValueError`` for what this encoder cannot represent."""

RENAMED = {"max_length": "max_position_embeddings", "dropout": "dropout_prob"}
"""Published setting -> ours; the others have the same names."""

PUBLISHED_DEFAULTS = {
    "num_hidden_layers": 28,
    "max_position_embeddings": 1024,
    "norm_eps": 1e-6,
}
"""What a ``config.json`` that does not say means, where that is not our default."""

OURS = "decoder_bias"
"""A setting that only this package writes."""

WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|_forward_module\.)+")
BARE_ENCODER = ("encoder.", "positional_embedding.", "transformer_encoder.", "layer_norm.")
UNUSED_BY_NGPT = ("model.sz", "model.layer_norm.")
PACKED_GATES = "ffn.w12.weight"


def translate_published(
    settings: Settings, weights: Weights
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Our settings and the published weights of a folder, in whatever format it is."""
    known = FORMATS.get(str(settings.get("model_type")).lower(), from_neobert)
    settings, weights = known(settings, weights)
    return model_config(settings), dict(weights)


def model_config(settings: Settings) -> ModelConfig:
    """Our settings from published ones. What is no setting of the model is left out."""
    known = set(fields_of("shape", "positions", "vocabulary", "initialisation", "training"))
    own = {name: value for name, value in settings.items() if name in known and value is not None}
    return ModelConfig(**{**PUBLISHED_DEFAULTS, **own})  # type: ignore[arg-type]


def from_neobert(settings: Settings, weights: Weights) -> tuple[Settings, dict[str, Tensor]]:
    """The published layout, in any of its variants."""
    renamed = published_names(weights)
    if settings.get("ngpt") is True:
        renamed = {k: w for k, w in renamed.items() if not k.startswith(UNUSED_BY_NGPT)}
    present = {name: value for name, value in settings.items() if value is not None}
    own = present | {RENAMED[name]: value for name, value in present.items() if name in RENAMED}
    pad = own.get("pad_token_id")
    if POSITIONS in renamed and isinstance(pad, int) and _start_after_pad(settings, weights):
        renamed[POSITIONS] = renamed[POSITIONS][pad:]
        own["max_position_embeddings"] = len(renamed[POSITIONS]) - 1
    return own, renamed


def published_names(weights: Weights) -> dict[str, Tensor]:
    """The same weights under the names of the published layout, whichever variant they came in."""
    renamed: dict[str, Tensor] = {}
    for old, tensor in _unwrapped(weights).items():
        name = re.sub(r"^model\.decoder\.", "decoder.", old)
        if name.startswith(BARE_ENCODER):
            name = f"model.{name}"
        if name.endswith(PACKED_GATES):
            gate, value = tensor.chunk(2)
            renamed[name.replace("w12", "w1")] = gate
            renamed[name.replace("w12", "w2")] = value
        else:
            renamed[name] = tensor
    return renamed


def _start_after_pad(settings: Settings, weights: Weights) -> bool:
    """Whether the first token has row ``pad_token_id + 1`` of the table of positions, not row 1.

    So it is in chandar-lab's training code, and in the reference's as long as its decoder had a
    bias. Their folders show it by packed gates, by that bias, or by a ``config.json`` that knows
    ``max_length`` only.
    """
    biased = any(name.endswith(DECODER_BIAS) for name in weights) and OURS not in settings
    packed = any(name.endswith(PACKED_GATES) for name in weights)
    return packed or biased or ("max_length" in settings and RENAMED["max_length"] not in settings)


def _unwrapped(weights: Weights) -> dict[str, Tensor]:
    """Without what wrappers put before the names. Two tensors of one name are refused."""
    names = {name: WRAPPERS.sub("", name) for name in weights}
    if any(name.startswith("model.model.") for name in names.values()):
        names = {old: WRAPPERS.sub("", name.removeprefix("model.")) for old, name in names.items()}
    if len(set(names.values())) < len(names):
        raise ValueError("two weights have one name when prefixes such as `module.` are taken off")
    return {new: weights[old] for old, new in names.items()}


def _from_eurobert(settings: Settings, weights: Weights) -> tuple[Settings, dict[str, Tensor]]:
    own = neobert_config(settings)
    heads = own["num_attention_heads"]
    assert isinstance(heads, int)
    return own, published_names(neobert_weights(weights, heads))


FORMATS: dict[str, Translate] = {
    "neobert": from_neobert,
    EUROBERT: _from_eurobert,
    ULTRABERT: _from_eurobert,
}
"""Readers by the ``model_type`` of ``config.json``; what has none is ``neobert``."""
