"""The model that pretraining starts from: fresh, or with the weights of ``model.init_from``."""

from transformers import PreTrainedTokenizerFast

from neobert.config.checks import ConfigError
from neobert.config.model import ModelConfig, fields_of
from neobert.console import get_logger
from neobert.data.tokenizer import TokenizerInfo
from neobert.model.heads import MaskedLM
from neobert.training.start import open_weights

log = get_logger(__name__)

PROBES = ("An encoder reads a text from both sides.", "naïve 東京, 3.14!  lower UPPER")


def initial_model(
    config: ModelConfig, tokenizer: TokenizerInfo, selector: str = "latest"
) -> MaskedLM:
    """A model with fresh weights, or with all of those in ``config.init_from``, or an error.

    Its vocabulary is then that of the weights, which may have been rounded up otherwise.
    ``selector`` is ``pretrained_checkpoint``: which checkpoint, where it is a run.
    """
    if config.init_from is None:
        return MaskedLM(config, tokenizer.vocab_size, tokenizer.pad_token_id)
    weights = open_weights(config.init_from, selector, "model.init_from")
    _check_shape(config, weights.config)
    _check_tokenizer(config.init_from, weights.tokenizer, tokenizer)
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


def _check_tokenizer(source: str, known: PreTrainedTokenizerFast, tokenizer: TokenizerInfo) -> None:
    here = tokenizer.tokenizer
    same_ids = known.get_vocab() == here.get_vocab() and all(
        known(text)["input_ids"] == here(text)["input_ids"] for text in PROBES
    )
    same_roles = all(
        getattr(known, f"{role}_token_id") == getattr(here, f"{role}_token_id")
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
