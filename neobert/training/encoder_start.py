"""What fine-tuning on tokens or spans starts from: one pair of keys for every such task.

``model.init_from`` names a run, a checkpoint or an exported folder and the root's
``pretrained_checkpoint`` chooses in it; ``model.from_hub`` takes the transformers model
``model.name``; random weights only where a key of the task allows them.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from neobert.config.model import ModelConfig, with_shape_of
from neobert.config.root import Config
from neobert.config.tokenizer import TokenizerConfig
from neobert.console import get_logger
from neobert.data.tokenizer import load_tokenizer
from neobert.errors import ConfigError
from neobert.model.encoder import Encoder
from neobert.model.pretrained import INFORMATION
from neobert.model.weight_files import read_json_object
from neobert.training.hub_model import load_hub_tokenizer
from neobert.training.start import Pretrained, open_weights

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderStart:
    """Where the encoder's weights come from, and what is known before they are read."""

    kind: str
    """``encoder``, ``hub``, ``random``, or ``resumed`` (the Trainer reads the checkpoint's)."""

    tokenizer: PreTrainedTokenizerFast
    model: ModelConfig
    """Shape and vocabulary of the weights, everything else of the run."""

    weights: Pretrained | None = None
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


def encoder_start(
    config: Config, resume: Path | None, random_key: str, allow_random: bool
) -> EncoderStart:
    """What ``config`` starts from. ``random_key`` is the setting that allows random weights.

    Raises ``ConfigError`` where there is nothing to start from.
    """
    if config.model.from_hub:
        return _hub(config)
    if resume is not None:  # what the run once started from may have moved
        weights = Pretrained(resume)
        record = read_json_object(resume / INFORMATION).get("weights")
        start = _of_weights(replace(config, tokenizer=TokenizerConfig()), "resumed", weights)
        return replace(start, weights=None, record=record if isinstance(record, dict) else {})
    if config.model.init_from is not None:
        key, selector = "model.init_from", config.pretrained_checkpoint
        weights = open_weights(config.model.init_from, selector, key)
        return _of_weights(config, "encoder", weights)
    if not allow_random:
        raise ConfigError(
            f"task={config.task} starts from no weights: set model.init_from=RUN_OR_FOLDER, or "
            f"model.from_hub=true with model.name, or {random_key}=true for random weights"
        )
    info = load_tokenizer(config.tokenizer)
    model = replace(config.model, vocab_size=info.vocab_size, pad_token_id=info.pad_token_id)
    return EncoderStart("random", info.tokenizer, model, record={"kind": "random"})


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


def _of_weights(config: Config, kind: str, weights: Pretrained) -> EncoderStart:
    folder = str(weights.folder.resolve())
    return EncoderStart(
        kind,
        weights.tokenizer_or(config.tokenizer),
        with_shape_of(weights.config, config.model),
        weights,
        {"kind": kind, "folder": folder, "sha256": weights.sha256},
    )


def _hub(config: Config) -> EncoderStart:
    if config.model.name is None:
        raise ConfigError("model.from_hub=true needs model.name: a folder or an id of the hub")
    record: dict[str, object] = {"kind": "hub", "name": config.model.name}
    return EncoderStart("hub", load_hub_tokenizer(config), config.model, record=record)
