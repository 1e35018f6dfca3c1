"""Trained weights: read a folder without trusting it, and build the model that it describes.

Understands a folder in the published layout (``config.json`` + ``model.safetensors``), in another
format of :data:`~neobert.model.formats.FORMATS`, and a checkpoint of ours or of the reference
(``config.yaml`` + ``model.safetensors``, or the shards of DeepSpeed ZeRO). No code in files is run,
and every weight must have its place. Whatever is wrong is a :class:`PretrainedError`.

Which folder that is, and whether it is damaged: :mod:`neobert.training.start`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from neobert.config.model import ModelConfig
from neobert.config.yaml_file import read_settings
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.files import first_line
from neobert.model.encoder import Encoder
from neobert.model.eurobert import head_settings
from neobert.model.formats import DECODER, DECODER_BIAS, EMBEDDING, OURS, translate_published
from neobert.model.heads import (
    ACTIVATIONS,
    ClassifierSettings,
    MaskedLM,
    SequenceClassifier,
    TokenClassifier,
)
from neobert.model.self_attention import SelfAttention
from neobert.model.weight_files import (
    MANIFEST,
    TOKENIZER_INFO,
    PretrainedError,
    has_weights,
    read_json_object,
    read_weights,
)
from neobert.model.zero import read_zero, zero_folder

log = get_logger(__name__)

ENCODER = "model."
LOGIT_SCALE = "sz"
HEADS = (LOGIT_SCALE, "decoder.", "dense.", "classifier.", "qa_outputs.")
SIZES = ("hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
BLOCK = re.compile(r"model\.transformer_encoder\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class StoredModel:
    """Weights and settings of a folder, checked against each other, before a model is made."""

    folder: Path
    config: ModelConfig
    """With the vocabulary size, the id of padding and the tying of the weights."""

    weights: dict[str, Tensor]
    """By the names of the published layout, in the precision of the files, mapped into memory."""


def read_stored(folder: Path) -> StoredModel:
    """Read settings and weights of ``folder``."""
    settings = _read_settings(folder)
    shards = None if has_weights(folder) else zero_folder(folder)
    stored = read_weights(folder) if shards is None else read_zero(shards)
    try:
        config, weights = translate_published(settings, stored)
    except (RuntimeError, ValueError, TypeError) as error:  # gates that cannot be taken apart
        raise PretrainedError(f"{folder}: {first_line(error)}") from error
    config = _typed(config, folder)
    table = weights.get(EMBEDDING)
    if table is None or table.dim() != 2:
        raise PretrainedError(f"{folder} holds no NeoBERT: it has no table {EMBEDDING}")
    config = replace(config, vocab_size=len(table), tie_word_embeddings=_tied(config, weights))
    _check_settings(config, weights, folder)
    return StoredModel(folder, config, weights)


def masked_lm_from(stored: StoredModel, settings: ModelConfig | None = None) -> MaskedLM:
    """The encoder and its decoder, which is the embedding where the weights have none.

    ``settings`` of the run, in place of those of the weights, must describe the same shape.
    """
    config, weights = settings or stored.config, stored.weights
    with torch.device("meta"):
        model = MaskedLM(
            config,
            stored.config.vocab_size,
            stored.config.pad_token_id,
            decoder_bias=DECODER_BIAS in weights,
        )
    tied = config.tie_word_embeddings and not config.ngpt
    if DECODER not in weights and tied:
        weights = {**weights, DECODER: weights[EMBEDDING]}
    if config.ngpt and LOGIT_SCALE not in weights:
        # The reference has none, which is the same as its initial value.
        scale = torch.full((stored.config.vocab_size,), config.base_scale)
        weights = {**weights, LOGIT_SCALE: scale}
    _fill(model, weights, stored.folder)
    if tied:
        model.decoder.weight = model.model.encoder.weight
    return model


def encoder_from(stored: StoredModel, settings: ModelConfig | None = None) -> Encoder:
    """The encoder; heads on it are left out, and nothing else is."""
    encoder = _encoder(stored, settings)
    weights = {
        name.removeprefix(ENCODER): tensor
        for name, tensor in stored.weights.items()
        if not name.startswith(HEADS)
    }
    _fill(encoder, weights, stored.folder)
    return encoder


def classifier_from(stored: StoredModel, settings: ModelConfig | None = None) -> SequenceClassifier:
    """The encoder and its classifier without dropout, with as many labels as the weights have."""
    if "classifier.weight" not in stored.weights:
        raise PretrainedError(f"{stored.folder} holds no classifier")
    encoder = _encoder(stored, settings)
    head = replace(_classifier_settings(stored.folder), dropout=0.0)
    with torch.device("meta"):
        model = SequenceClassifier(encoder, len(stored.weights["classifier.weight"]), head)
    _fill(model, stored.weights, stored.folder)
    return model


def token_classifier_from(stored: StoredModel, head: str) -> TokenClassifier:
    """The encoder and a linear layer for every token, ``classifier`` or ``qa_outputs``."""
    weight = stored.weights.get(f"{head}.weight")
    if weight is None:
        raise PretrainedError(f"{stored.folder} holds no {head}")
    with torch.device("meta"):
        model = TokenClassifier(_encoder(stored, None), len(weight), head=head)
    _fill(model, stored.weights, stored.folder)
    return model


def _encoder(stored: StoredModel, settings: ModelConfig | None) -> Encoder:
    """Without weights yet."""
    own = stored.config
    with torch.device("meta"):
        return Encoder(settings or own, own.vocab_size, own.pad_token_id)


def _classifier_settings(folder: Path) -> ClassifierSettings:
    """Activation and pooling of the head, where ``config.json`` or the run's settings say so."""
    file = folder / "config.json"
    run = run_settings(folder / "config.yaml")
    values = read_json_object(file) if file.is_file() else run.get("glue")
    try:
        values = head_settings(values if isinstance(values, dict) else {})
    except ValueError as error:
        raise PretrainedError(f"{folder}: {error}") from error
    names = {"activation": ACTIVATIONS.keys() | {"none"}, "pooling": {"cls", "avg"}}
    chosen: dict[str, str] = {}
    for name, allowed in names.items():
        value = values.get(f"classifier_{name}")
        if value is None:
            continue
        if str(value) not in allowed:
            raise PretrainedError(
                f"{folder}: classifier_{name} is {value!r}, not one of {', '.join(sorted(allowed))}"
            )
        chosen[name] = str(value)
    return replace(ClassifierSettings(), **chosen)  # type: ignore[arg-type]


def _read_settings(folder: Path) -> dict[str, object]:
    """The settings of the model as its files have them, under their own names."""
    if (folder / "config.json").is_file():
        return read_json_object(folder / "config.json")
    shards = zero_folder(folder)
    # DeepSpeed's shards may be one folder further down; a run of the reference has its
    # config.yaml above.
    places = (folder, *([shards] if shards else []), *folder.parents[:2])
    files = [place / "config.yaml" for place in places if (place / "config.yaml").is_file()]
    if not files:
        raise PretrainedError(f"{folder} has weights but neither config.json nor config.yaml")
    section = run_settings(files[0]).get("model")
    if not isinstance(section, dict):
        raise PretrainedError(f"{files[0]} has no section `model`")
    settings = {str(name): value for name, value in section.items()}
    if (folder / TOKENIZER_INFO).is_file():
        information = read_json_object(folder / TOKENIZER_INFO)
        settings["pad_token_id"] = information.get("pad_token_id", settings.get("pad_token_id"))
    if (folder / MANIFEST).is_file():
        settings[OURS] = None
    return settings


def run_settings(path: Path) -> dict[str, object]:
    """The sections of a run's ``config.yaml``; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        return {str(name): section for name, section in read_settings(path, "weights").items()}
    except ConfigError as error:
        raise PretrainedError(*error.problems) from error


def _typed(config: ModelConfig, folder: Path) -> ModelConfig:
    """``config`` with each value of its field's type; numbers may be written as text."""
    numbers = {}
    for field in fields(ModelConfig):
        value, kind = getattr(config, field.name), type(field.default)
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            try:
                numbers[field.name] = value = float(value)  # YAML: 1e-5 is a text
            except (ValueError, OverflowError) as error:
                message = f"{folder}: {field.name} is {value!r}, not a number"
                raise PretrainedError(message) from error
        if field.default_factory is dict and not isinstance(value, dict):
            raise PretrainedError(f"{folder}: {field.name} is {value!r}, not a table")
        if kind in (bool, int, float, str) and type(value) is not kind:
            raise PretrainedError(f"{folder}: {field.name} is {value!r}, not a {kind.__name__}")
    return replace(config, **numbers, hidden_act=config.hidden_act.lower())  # type: ignore[arg-type]


def _check_settings(config: ModelConfig, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse settings that no model can have, and those that only the weights can contradict."""
    problems = config.problems()
    problems += [
        f"{name} is {getattr(config, name)}" for name in SIZES if getattr(config, name) >= 2**24
    ]
    blocks = {match[1] for name in weights if (match := BLOCK.match(name))}
    if len(blocks) != config.num_hidden_layers:
        problems.append(f"num_hidden_layers is {config.num_hidden_layers}, weights: {len(blocks)}")
    if config.pad_token_id >= config.vocab_size:
        problems.append(f"pad_token_id {config.pad_token_id} is no row of the embedding")
    if problems:
        raise PretrainedError(f"{folder}: impossible settings: " + "; ".join(problems))


def _tied(config: ModelConfig, weights: Mapping[str, Tensor]) -> bool:
    """What the weights know better than the configuration: whether the decoder is tied."""
    if config.ngpt or DECODER not in weights or not config.tie_word_embeddings:
        return config.tie_word_embeddings
    if torch.equal(weights[DECODER], weights[EMBEDDING]):
        return True
    # transformers 5 left the published class untied although its configuration says otherwise.
    log.info("the decoder differs from the embedding, so it is loaded untied")
    return False


def _fill(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Put fp32 copies of ``weights`` into a model on the meta device: each has its place."""
    own = model.state_dict()
    problems = [f"missing: {name}" for name in own if name not in weights]
    problems += [f"unexpected: {name}" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        listed = "\n- ".join(sorted(problems)[:20])
        more = f"\n- and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise PretrainedError(f"{folder} does not fit its settings:\n- {listed}{more}")
    # Copies: training must not write into the mapped file, and what is mapped is not aligned.
    copies = {
        name: tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
    }
    model.load_state_dict(copies, assign=True)
    for module in model.modules():
        if isinstance(module, SelfAttention):  # what it records is no weight, so still on `meta`
            module.max_logits = torch.full((module.num_heads,), -torch.inf)
    assert not any(buffer.is_meta for buffer in model.buffers())
