"""What a run starts from: weights and their tokenizer, or random ones if requested."""

from dataclasses import dataclass, replace
from pathlib import Path

from neobert.config.ready import without_weights
from neobert.config.root import Config
from neobert.config.tokenizer import TokenizerConfig
from neobert.console import get_logger
from neobert.data.tokenizer import TokenizerInfo, describe_tokenizer
from neobert.errors import ConfigError
from neobert.model.encoder import Encoder
from neobert.model.heads import MaskedLM
from neobert.training.encoder_start import EncoderStart, deciding_key, random_start, start_of
from neobert.training.start import Pretrained, open_weights

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


def needs_decoder(config: Config) -> bool:
    """Whether some steps are MLM."""
    return config.dataset.pretraining_prob > 0 and config.contrastive.pretraining_step == "mlm"


def open_start(config: Config, resume: Path | None) -> ContrastiveStart:
    """Load what the settings name, every weight in its place; a resumed run loads its own.

    Raises ``ConfigError`` where nothing is named and random weights are not requested, or where
    weights, tokenizer and settings do not fit.
    """
    _check_dropout(config)
    if resume is None:
        start = _start(config)
    else:
        own = replace(config, tokenizer=TokenizerConfig())
        start = start_of(own, Pretrained(resume), "resumed")
    merged = replace(config, model=start.model)
    if problems := merged.problems():
        raise ConfigError(*problems)
    model = start.masked_lm() if needs_decoder(config) else start.encoder()
    origin = "random weights" if start.weights is None else str(start.weights.folder)
    return ContrastiveStart(model, _tokenizer_of(config, start), merged, origin)


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
    return _tokenizer_of(config, _start(config))


def _start(config: Config) -> EncoderStart:
    names = ("pretrained_model_path", "pretrained_checkpoint_dir", "allow_random_weights")
    values = {f"contrastive.{name}": getattr(config.contrastive, name) for name in names}
    key = deciding_key(values)
    if key is None:
        raise ConfigError(without_weights("contrastive"))
    if key != "contrastive.allow_random_weights":
        return start_of(config, open_weights(values[key], config.pretrained_checkpoint, key))
    if config.tokenizer.train_vocab_size is not None:
        raise ConfigError(
            "contrastive.allow_random_weights needs an existing tokenizer: "
            "tokenizer.path=FOLDER or tokenizer.name=HUB_ID, with "
            "tokenizer.train_vocab_size=null"
        )
    log.warning("starting from random weights (contrastive.allow_random_weights=true)")
    return random_start(config)


def _tokenizer_of(config: Config, start: EncoderStart) -> TokenizerInfo:
    """What follows from the tokenizer of ``start``, whose embedding decides the sizes."""
    given = config.tokenizer.path or config.tokenizer.name
    name = given if start.weights is None else str(start.weights.folder)
    info = describe_tokenizer(start.tokenizer, name)
    return replace(info, vocab_size=start.model.vocab_size, pad_token_id=start.model.pad_token_id)
