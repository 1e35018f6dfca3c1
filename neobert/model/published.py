"""The published NeoBERT layout and its variants: names of settings and of weights.

The variants: feed-forward gates packed as ``ffn.w12`` (gate above, value below), encoders saved
without the ``model.`` prefix, the decoder below the encoder (``model.decoder``), and prefixes of
what wrapped the model in training (``module.``, ``_orig_mod.``, a LightningModule's ``model.``).
"""

import re
from collections.abc import Mapping
from dataclasses import fields

from torch import Tensor

from neobert.config.model import ModelConfig

RENAMED = {"max_length": "max_position_embeddings", "dropout": "dropout_prob"}
"""Published setting -> ours; the others have the same names."""

PUBLISHED_DEFAULTS = {
    "num_hidden_layers": 28,
    "max_position_embeddings": 1024,
    "norm_eps": 1e-6,
}
"""What a ``config.json`` that does not say means, where that is not our default."""

WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|_forward_module\.)+")
BARE_ENCODER = ("encoder.", "positional_embedding.", "transformer_encoder.", "layer_norm.")


def model_config(published: Mapping[str, object]) -> ModelConfig:
    """Our settings from those of a ``config.json``. What is no setting of the model is left out."""
    known = {field.name for field in fields(ModelConfig)}
    said = {name: value for name, value in published.items() if value is not None}
    own = {name: value for name, value in said.items() if name in known}
    own |= {RENAMED[name]: value for name, value in said.items() if name in RENAMED}
    return ModelConfig(**{**PUBLISHED_DEFAULTS, **own})  # type: ignore[arg-type]


def published_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of the published layout, whichever variant they came in."""
    renamed: dict[str, Tensor] = {}
    for old, tensor in _unwrapped(weights).items():
        name = re.sub(r"^model\.decoder\.", "decoder.", old)
        if name.startswith(BARE_ENCODER):
            name = f"model.{name}"
        if name.endswith("ffn.w12.weight"):
            gate, value = tensor.chunk(2)
            renamed[name.replace("w12", "w1")] = gate
            renamed[name.replace("w12", "w2")] = value
        else:
            renamed[name] = tensor
    return renamed


def _unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers put before the names. Two tensors of one name are refused."""
    names = {name: WRAPPERS.sub("", name) for name in weights}
    if any(name.startswith("model.model.") for name in names.values()):
        names = {old: WRAPPERS.sub("", name.removeprefix("model.")) for old, name in names.items()}
    if len(set(names.values())) < len(names):
        raise ValueError("two weights have one name when prefixes such as `module.` are taken off")
    return {new: weights[old] for old, new in names.items()}
