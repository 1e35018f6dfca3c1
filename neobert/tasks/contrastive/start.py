"""What a run starts from: weights and their tokenizer, or random ones where that is asked for."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from neobert.config.checks import ConfigError
from neobert.config.model import ModelConfig
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.data.tokenizer import TokenizerInfo, describe, load_tokenizer
from neobert.model.encoder import Encoder
from neobert.model.heads import MaskedLM
from neobert.model.pretrained import PretrainedError, find_weights, load, load_encoder
from neobert.training.select import select_checkpoint

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
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


def open_start(config: Config, resume: Path | None) -> Start:
    """Load what the settings name, every weight in its place; a resumed run loads its own.

    Raises ``ConfigError`` where nothing is named and random weights are not asked for, or where
    weights, tokenizer and settings do not fit.
    """
    _check_dropout(config)
    place = resume if resume is not None else _named(config)
    if place is None:
        return _random(config)
    try:
        folder = find_weights(place)
        model = load(folder) if needs_decoder(config) else load_encoder(folder)
        tokenizer = describe(saved_tokenizer(folder), str(folder))
    except (PretrainedError, ValueError) as error:
        raise ConfigError(f"contrastive: cannot start from {place}: {error}") from error
    merged = replace(config, model=_model_settings(model.config, config.model))
    problems = merged.problems()
    if tokenizer.real_vocab_size > model.vocab_size:
        problems.append(
            f"{folder}: its tokenizer has {tokenizer.real_vocab_size} tokens, the embedding "
            f"{model.vocab_size} rows"
        )
    if problems:
        raise ConfigError(*problems)
    log.info(
        "starting from %s: %d × %d; of model.* only dropout_prob and the backends are taken from "
        "the settings",
        folder,
        merged.model.hidden_size,
        merged.model.num_hidden_layers,
    )
    tokenizer = replace(tokenizer, vocab_size=model.vocab_size, pad_token_id=model.pad_token_id)
    return Start(_with_settings(model, merged.model), tokenizer, merged, str(folder))


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
    place = _named(config)
    if place is None:
        return _own_tokenizer(config)
    try:
        folder = find_weights(place)
        return describe(saved_tokenizer(folder), str(folder))
    except ValueError as error:
        raise ConfigError(f"contrastive: cannot start from {place}: {error}") from error


def _named(config: Config) -> str | Path | None:
    """The folder or hub id to start from; ``None`` for random weights, if they are allowed."""
    settings = config.contrastive
    if settings.pretrained_model_path is not None:
        return settings.pretrained_model_path
    if settings.pretrained_checkpoint_dir is not None:
        run = Path(settings.pretrained_checkpoint_dir).expanduser()
        key = "contrastive.pretrained_checkpoint_dir"
        return select_checkpoint(run, config.pretrained_checkpoint, key)
    if settings.allow_random_weights:
        return None
    raise ConfigError(
        "contrastive: name the weights to start from: contrastive.pretrained_checkpoint_dir="
        "RUN, or contrastive.pretrained_model_path=FOLDER_OR_HUB_ID; "
        "contrastive.allow_random_weights=true starts from random ones"
    )


def _random(config: Config) -> Start:
    tokenizer = _own_tokenizer(config)
    kind = MaskedLM if needs_decoder(config) else Encoder
    model = kind(config.model, tokenizer.vocab_size, tokenizer.pad_token_id)
    log.warning("starting from random weights, as contrastive.allow_random_weights says")
    return Start(model, tokenizer, config, "random weights")


def _own_tokenizer(config: Config) -> TokenizerInfo:
    if config.tokenizer.train_vocab_size is not None:
        raise ConfigError(
            "contrastive.allow_random_weights needs a tokenizer that is there: "
            "tokenizer.path=FOLDER or tokenizer.name=HUB_ID, with "
            "tokenizer.train_vocab_size=null"
        )
    return load_tokenizer(config.tokenizer)


def _model_settings(stored: ModelConfig, asked: ModelConfig) -> ModelConfig:
    return replace(
        stored,
        dropout_prob=asked.dropout_prob,
        attn_backend=asked.attn_backend,
        kernel_backend=asked.kernel_backend,
    )


def _with_settings(model: Encoder | MaskedLM, config: ModelConfig) -> Encoder | MaskedLM:
    """The same weights in a network with these settings."""
    fresh: nn.Module
    if isinstance(model, MaskedLM):
        tied = model.decoder.weight is model.model.encoder.weight
        bias = model.decoder.bias is not None
        config = replace(config, tie_word_embeddings=tied)
        fresh = MaskedLM(config, model.vocab_size, model.pad_token_id, decoder_bias=bias)
    else:
        fresh = Encoder(config, model.vocab_size, model.pad_token_id)
    fresh.load_state_dict(model.state_dict(), strict=True)
    return fresh  # type: ignore[return-value]
