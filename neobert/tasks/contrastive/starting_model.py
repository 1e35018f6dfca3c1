"""What a run starts from: weights and their tokenizer, or random ones if requested."""

from dataclasses import dataclass, replace
from pathlib import Path

from neobert.config.model import with_shape_of
from neobert.config.root import Config
from neobert.config.tokenizer import TokenizerConfig
from neobert.console import get_logger
from neobert.data.tokenizer import TokenizerInfo, load_tokenizer
from neobert.errors import ConfigError
from neobert.model.encoder import Encoder
from neobert.model.heads import MaskedLM
from neobert.training.start import Pretrained, open_weights, tokenizer_info

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ContrastiveStart:
    """The network of a run and its tokenizer."""

    model: Encoder | MaskedLM
    """With its decoder where there are MLM steps."""

    tokenizer: TokenizerInfo
    config: Config
    """The settings with ``model`` as the weights have it: what the run's files say."""

    origin: str

    @property
    def encoder(self) -> Encoder:
        return self.model.model if isinstance(self.model, MaskedLM) else self.model


def needs_decoder(config: Config) -> bool:
    """Whether some steps are MLM."""
    return config.dataset.pretraining_prob > 0 and config.contrastive.pretraining_step == "mlm"


def open_start(config: Config, resume: Path | None) -> ContrastiveStart:
    """Load what the settings name, every weight in its place; a resumed run loads its own.

    Raises ``ConfigError`` where nothing is named and random weights are not requested, or where
    weights, tokenizer and settings do not fit.
    """
    _check_dropout(config)
    weights = _named(config) if resume is None else Pretrained(resume)
    if weights is None:
        return _random(config)
    merged = replace(config, model=with_shape_of(weights.config, config.model))
    if problems := merged.problems():
        raise ConfigError(*problems)
    log.info(
        "starting from %s: %d × %d; shape and vocabulary are those of the weights",
        weights.folder,
        merged.model.hidden_size,
        merged.model.num_hidden_layers,
    )
    build = weights.masked_lm if needs_decoder(config) else weights.encoder
    tokenizer = tokenizer_info(weights, config.tokenizer if resume is None else TokenizerConfig())
    return ContrastiveStart(build(merged.model), tokenizer, merged, str(weights.folder))


def _check_dropout(config: Config) -> None:
    """Unsupervised SimCSE compares two encodings of a text, which only dropout tells apart."""
    twice = config.dataset.pretraining_prob > 0 and config.contrastive.pretraining_step == "simcse"
    if twice and config.model.dropout_prob == 0:
        raise ConfigError(
            "model.dropout_prob=0: a pretraining step of unsupervised SimCSE needs dropout; "
            "set model.dropout_prob=0.1, contrastive.pretraining_step=mlm, or "
            "dataset.pretraining_prob=0"
        )


def open_tokenizer(config: Config) -> TokenizerInfo:
    """The tokenizer alone, as :func:`open_start` gives it."""
    weights = _named(config)
    return _own_tokenizer(config) if weights is None else tokenizer_info(weights, config.tokenizer)


def _named(config: Config) -> Pretrained | None:
    """The weights to start from; ``None`` for random ones, if they are allowed."""
    for key in ("pretrained_model_path", "pretrained_checkpoint_dir"):
        place = getattr(config.contrastive, key)
        if place is not None:
            if config.contrastive.allow_random_weights:
                log.warning(
                    "contrastive.allow_random_weights=true has no effect: contrastive.%s=%s names "
                    "the weights",
                    *(key, place),
                )
            return open_weights(place, config.pretrained_checkpoint, f"contrastive.{key}")
    if config.contrastive.allow_random_weights:
        return None
    raise ConfigError(
        "contrastive: name the weights to start from: contrastive.pretrained_checkpoint_dir="
        "RUN, or contrastive.pretrained_model_path=FOLDER_OR_HUB_ID; "
        "contrastive.allow_random_weights=true starts from random ones"
    )


def _random(config: Config) -> ContrastiveStart:
    tokenizer = _own_tokenizer(config)
    kind = MaskedLM if needs_decoder(config) else Encoder
    model = kind(config.model, tokenizer.vocab_size, tokenizer.pad_token_id)
    log.warning("starting from random weights (contrastive.allow_random_weights=true)")
    return ContrastiveStart(model, tokenizer, replace(config, model=model.config), "random weights")


def _own_tokenizer(config: Config) -> TokenizerInfo:
    if config.tokenizer.train_vocab_size is not None:
        raise ConfigError(
            "contrastive.allow_random_weights needs an existing tokenizer: "
            "tokenizer.path=FOLDER or tokenizer.name=HUB_ID, with "
            "tokenizer.train_vocab_size=null"
        )
    return load_tokenizer(config.tokenizer)
