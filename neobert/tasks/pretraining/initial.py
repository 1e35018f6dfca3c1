"""The model that pretraining starts from: fresh, or with the weights of ``model.init_from``."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from neobert.config.model import ModelConfig, fields_of
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError
from neobert.model.heads import MaskedLM
from neobert.training.start import Pretrained, open_weights

log = get_logger(__name__)

PROBES = ("An encoder reads a text from both sides.", "naïve 東京, 3.14!  lower UPPER")


def initial_weights(config: Config, resume: Path | None) -> Pretrained | None:
    """What ``model.init_from`` names, before any data is read; ``None`` for fresh weights.

    A run that resumes has all weights in its checkpoint; the folder that they once came from may be
    gone.
    """
    if config.model.init_from is None:
        return None
    if resume is not None:
        return Pretrained(resume)
    return open_weights(config.model.init_from, config.pretrained_checkpoint, "model.init_from")


def initial_model(
    config: ModelConfig, tokenizer: TokenizerInfo, weights: Pretrained | None
) -> MaskedLM:
    """A model with fresh weights, or with all of ``weights``, or an error.

    Its vocabulary is then that of the weights, which may have been rounded up otherwise.
    """
    if weights is None:
        return MaskedLM(config, tokenizer.vocab_size, tokenizer.pad_token_id)
    _check_shape(config, weights.config)
    _check_tokenizer(config.init_from, weights.tokenizer, tokenizer)
    _warn_of_positions(config, weights.config)
    model = weights.masked_lm(config)
    log.info("starting from the weights in %s (model.init_from)", weights.folder)
    return model


def _check_shape(config: ModelConfig, trained: ModelConfig) -> None:
    both_rope = config.rope and trained.rope  # then a run may train longer documents
    checked = fields_of("shape") if both_rope else fields_of("shape", "positions")
    differing = [
        f"model.{name}={_as_typed(getattr(trained, name))}"
        for name in checked
        if getattr(trained, name) != getattr(config, name)
    ]
    if differing:
        raise ConfigError(
            f"model.init_from={config.init_from}: the weights were trained with other "
            f"settings; add: {' '.join(differing)}"
        )


def _warn_of_positions(config: ModelConfig, trained: ModelConfig) -> None:
    """Other rotary frequencies are allowed (for longer documents), but rarely meant."""
    for name in ("rope_theta", "rope_scaling"):
        if (trained_value := getattr(trained, name)) != (value := getattr(config, name)):
            log.warning(
                "model.%s=%s, but the weights were trained with %s: set it too, unless this run "
                "is to change it",
                name,
                value,
                trained_value,
            )


def _check_tokenizer(
    source: str | None, known: PreTrainedTokenizerFast, tokenizer: TokenizerInfo
) -> None:
    requested = tokenizer.tokenizer
    same_ids = known.get_vocab() == requested.get_vocab() and all(
        known(text)["input_ids"] == requested(text)["input_ids"] for text in PROBES
    )
    same_roles = all(
        getattr(known, f"{role}_token_id") == getattr(requested, f"{role}_token_id")
        for role in ("pad", "mask", "unk")
    )
    if not (same_ids and same_roles):
        raise ConfigError(
            f"model.init_from={source}: the weights were trained with another tokenizer than "
            f"{tokenizer.name}: set tokenizer.path to the folder of theirs "
            "(tokenizer.train_vocab_size=null)"
        )


def _as_typed(value: object) -> str:
    """As the command line has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
