"""What fine-tuning starts from: trained weights, a model of transformers, or random weights.

``model.init_from`` names a run, a checkpoint or an exported folder and the root's
``pretrained_checkpoint`` chooses in it; ``model.from_hub`` takes the transformers model
``model.name``; random weights only where a key of the task allows them. A task may have further
keys; what they name is opened here too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from neobert.config.model import ModelConfig, with_shape_of
from neobert.config.ready import without_weights
from neobert.config.root import Config
from neobert.config.tokenizer import TokenizerConfig
from neobert.console import get_logger
from neobert.data.tokenizer import load_tokenizer
from neobert.errors import ConfigError
from neobert.model.encoder import Encoder
from neobert.model.heads import MaskedLM
from neobert.model.weight_files import TOKENIZER_INFO, read_json_object
from neobert.training.hub_model import load_hub_tokenizer
from neobert.training.start import Pretrained, open_weights

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderStart:
    """Where the encoder's weights come from, and what is known before they are read."""

    kind: str
    """``encoder``, ``transfer`` (encoder and dense layer of a classifier), ``hub``, ``random``, or
    ``resumed`` (the Trainer reads the checkpoint's)."""

    tokenizer: PreTrainedTokenizerFast
    model: ModelConfig
    """Shape and vocabulary of the weights, everything else of the run."""

    weights: Pretrained | None = None
    """What the model is built from; ``None`` where nothing is to be read."""

    record: dict[str, object] = field(default_factory=dict)
    """For ``summary.json``: which weights these are."""

    @property
    def information(self) -> dict[str, object]:
        """What a checkpoint says about tokenizer and weights."""
        of_hub = self.kind == "hub"
        return {
            "tokenizer_name": self.tokenizer.name_or_path,
            "pad_token_id": self.tokenizer.pad_token_id,
            "vocab_size": len(self.tokenizer) if of_hub else self.model.vocab_size,
            "weights": self.record,
        }

    def encoder(self) -> Encoder:
        """The encoder with its weights; fresh ones where none are to be read."""
        if self.weights is None:
            return Encoder(self.model, self.model.vocab_size, self.model.pad_token_id)
        return self.weights.encoder(self.model)

    def masked_lm(self) -> MaskedLM:
        """The same with the decoder."""
        if self.weights is None:
            return MaskedLM(self.model, self.model.vocab_size, self.model.pad_token_id)
        return self.weights.masked_lm(self.model)


def encoder_start(config: Config, resume: Path | None, section: str) -> EncoderStart:
    """What ``config`` starts from; ``allow_random_weights`` of its ``section`` allows random ones.

    Raises ``ConfigError`` where there is nothing to start from.
    """
    if (resumed := resumed_start(config, resume)) is not None:
        return resumed
    if config.model.from_hub:
        return hub_start(config)
    if config.model.init_from is not None:
        selector = config.pretrained_checkpoint
        return start_of(config, open_weights(config.model.init_from, selector, "model.init_from"))
    if getattr(config, section).allow_random_weights:
        return random_start(config)
    raise ConfigError(without_weights(config.task))


def resumed_start(config: Config, resume: Path | None) -> EncoderStart | None:
    """The start of a run that resumes at the checkpoint ``resume``, which has all that it needs:
    what it once started from may have moved, or be another by now.

    ``None`` for new runs, and for models of the hub, whose folder alone knows their architecture.
    """
    if resume is None:
        return None
    saved = read_json_object(resume / TOKENIZER_INFO).get("weights")
    record = saved if isinstance(saved, dict) else {}
    if record.get("kind", "hub" if config.model.from_hub else "") == "hub":
        return None
    start = start_of(replace(config, tokenizer=TokenizerConfig()), Pretrained(resume), "resumed")
    return replace(start, weights=None, record=record)


def start_of(config: Config, weights: Pretrained, kind: str = "encoder") -> EncoderStart:
    """The start from trained ``weights``, with the tokenizer beside them."""
    model = with_shape_of(weights.config, config.model)
    if kind != "resumed":
        log.info(
            "starting from %s: %d × %d; shape and vocabulary are those of the weights",
            *(weights.folder, model.hidden_size, model.num_hidden_layers),
        )
    tokenizer, folder = weights.tokenizer_or(config.tokenizer), str(weights.folder.resolve())
    record: dict[str, object] = {"kind": kind, "folder": folder, "sha256": weights.sha256}
    return EncoderStart(kind, tokenizer, model, weights, record)


def hub_start(config: Config) -> EncoderStart:
    """The start from ``model.name``, a model of transformers, with its own tokenizer."""
    if config.model.name is None:
        raise ConfigError("model.from_hub=true needs model.name: a folder or an id of the hub")
    record: dict[str, object] = {"kind": "hub", "name": config.model.name}
    return EncoderStart("hub", load_hub_tokenizer(config), config.model, record=record)


def random_start(config: Config) -> EncoderStart:
    """The start from random weights of the settings' shape, with the settings' tokenizer."""
    info = load_tokenizer(config.tokenizer)
    model = replace(config.model, vocab_size=info.vocab_size, pad_token_id=info.pad_token_id)
    return EncoderStart("random", info.tokenizer, model, record={"kind": "random"})


def deciding_key(values: Mapping[str, object]) -> str | None:
    """The first key that is set, of those that say where to start; a warning reports the others."""
    keys = [key for key, value in values.items() if value]
    for key in keys[1:]:
        log.warning(
            "%s=%s has no effect: %s=%s names the weights",
            *(key, values[key], keys[0], values[keys[0]]),
        )
    return keys[0] if keys else None


def of_length(model: ModelConfig, key: str, length: int) -> ModelConfig:
    """``model`` for documents of ``length`` tokens, the value of ``key``.

    Exported tokenizers truncate at the positions that it states. Raises ``ConfigError`` where it
    has learned fewer.
    """
    longest = model.max_position_embeddings
    if not model.rope and length > longest:
        raise ConfigError(
            f"{key}={length} is longer than the {longest} positions that the weights have learned"
        )
    return replace(model, max_position_embeddings=max(longest, length))
