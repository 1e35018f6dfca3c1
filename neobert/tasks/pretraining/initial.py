"""The model that pretraining starts from: fresh, or with the weights of ``model.init_from``."""

from dataclasses import fields

from transformers import PreTrainedTokenizerFast

from neobert.config.checks import ConfigError
from neobert.config.model import ModelConfig
from neobert.console import get_logger
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.data.tokenizer import TokenizerInfo
from neobert.model.heads import MaskedLM, build_masked_lm
from neobert.model.pretrained import find_weights, load

log = get_logger(__name__)

FREE = (
    "name",
    "vocab_size",
    "pad_token_id",
    "dropout_prob",
    "embedding_init_range",
    "decoder_init_range",
    "classifier_init_range",
    "attn_backend",
    "kernel_backend",
    "from_hub",
    "init_from",
)
"""Settings that may differ from those the weights were trained with."""

FREE_WITH_ROPE = ("max_position_embeddings", "rope_theta")
"""Those of longer texts; without rotary positions they are the size of a table."""

PROBES = ("An encoder reads a text from both sides.", "naïve 東京, 3.14!  lower UPPER")


def initial_model(config: ModelConfig, tokenizer: TokenizerInfo) -> MaskedLM:
    """A model with fresh weights, or with all of those in ``config.init_from``, or an error.

    Its vocabulary is then that of the weights, which may have been rounded up otherwise.
    """
    if config.init_from is None:
        return build_masked_lm(config, tokenizer.vocab_size, tokenizer.pad_token_id)
    try:
        folder = find_weights(config.init_from)
        found = load(folder)
        known = saved_tokenizer(folder)
    except ValueError as error:
        raise ConfigError(f"model.init_from={config.init_from}: {error}") from error
    _check_shape(config, found.config)
    _check_tokenizer(config.init_from, known, tokenizer)
    own = MaskedLM(config, found.vocab_size, found.pad_token_id, found.decoder.bias is not None)
    own.load_state_dict(found.state_dict())
    log.info("starting from the weights in %s (model.init_from)", folder)
    return own


def _check_shape(config: ModelConfig, trained: ModelConfig) -> None:
    free = (*FREE, *FREE_WITH_ROPE) if config.rope and trained.rope else FREE
    checked = [field.name for field in fields(ModelConfig) if field.name not in free]
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
