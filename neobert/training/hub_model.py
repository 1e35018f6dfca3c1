"""Models of transformers to fine-tune: an ``AutoModelFor…`` with its own tokenizer.

Loaded as strictly as ours: only the head may be new, and only a head of another task left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.tokenizer import tokenizer_folder
from neobert.errors import ConfigError
from neobert.files import first_line

log = get_logger(__name__)

SHOWN = 20
NEW = ("pooler", "classifier", "score", "head", "qa_outputs", "position_ids")
"""Parts of a name that belong to a head, or are no weights."""


def load_hub_tokenizer(config: Config) -> PreTrainedTokenizerFast:
    """The tokenizer of ``model.name``; ``tokenizer.path`` wins. A mask token is not needed."""
    path = config.tokenizer.path
    name = str(tokenizer_folder(path) if path else config.model.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **_origin(config))
    except Exception as error:  # each kind of tokenizer has its own
        raise ConfigError(_failed(name, error)) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(f"{name} has a slow tokenizer; only fast ones are supported")
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"the tokenizer of {name} has no pad token")
    return tokenizer


def takes_types(config: Config) -> bool:
    """Whether the model knows the segments of a pair apart, as BERT does."""
    return int(getattr(_settings(config), "type_vocab_size", 0)) > 1


@dataclass(frozen=True, slots=True)
class HubHead:
    """The head that a model of transformers gets."""

    auto: type
    """The class of transformers that has it: ``AutoModelForTokenClassification``, …"""

    num_labels: int
    labels: Sequence[str] = ()
    """Names of the classes, where there are any."""

    problem_type: str | None = None
    dropout: float = 0.0
    max_length: tuple[str, int] = ("dataset.max_seq_length", 0)
    """Key and value of the longest document."""


def load_hub_model(config: Config, head: HubHead) -> tuple[nn.Module, int]:
    """The model with a fresh head, and its attention heads.

    Raises ``ConfigError`` with each weight that is wrong.
    """
    name = str(config.model.name)
    settings = _settings(config)
    _set_head(settings, head)
    _check_length(settings, config, *head.max_length)
    try:
        model, report = head.auto.from_pretrained(  # type: ignore[attr-defined]
            name, config=settings, output_loading_info=True, **_origin(config)
        )
    except Exception as error:  # missing files, kinds without such a head, shapes
        raise ConfigError(_failed(name, error, head.auto.__name__)) from error
    problems = wrong_weights(report, model.base_model_prefix)
    if problems:
        listed = "\n- ".join(problems[:SHOWN])
        raise ConfigError(f"model.name={name} does not fit its settings:\n- {listed}")
    new = sorted(report["missing_keys"])
    log.info("%s: new weights: %s", name, ", ".join(new) or "none")
    if config.trainer.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if config.trainer.torch_compile:
        log.warning("trainer.torch_compile is skipped: it is for our encoder, not for %s", name)
    return model.float().train(), int(getattr(settings, "num_attention_heads", 1))


def wrong_weights(report: dict[str, object], prefix: str) -> list[str]:
    """What a loading report says against the encoder; heads may come and go."""

    def of_encoder(name: str) -> bool:
        parts = name.removeprefix(f"{prefix}.").split(".")
        return name.startswith(f"{prefix}.") and not any(part in NEW for part in parts)

    missing, unexpected = _names(report, "missing_keys"), _names(report, "unexpected_keys")
    problems = [f"missing: {name}" for name in missing if of_encoder(name)]
    problems += [f"unexpected: {name}" for name in unexpected if of_encoder(name)]
    problems += [f"of another shape: {name}" for name in _names(report, "mismatched_keys")]
    return problems


def _names(report: dict[str, object], key: str) -> list[str]:
    names = report.get(key)
    assert isinstance(names, list | set | tuple)
    return sorted(str(name) for name in names)


def _settings(config: Config) -> PretrainedConfig:
    name = str(config.model.name)
    try:
        return AutoConfig.from_pretrained(name, **_origin(config))
    except Exception as error:  # no such folder, no such kind
        raise ConfigError(_failed(name, error)) from error


def _set_head(settings: PretrainedConfig, head: HubHead) -> None:
    settings.num_labels = head.num_labels
    settings.problem_type = head.problem_type  # type: ignore[assignment]
    if head.labels:
        settings.id2label = dict(enumerate(head.labels))
        settings.label2id = {name: number for number, name in enumerate(head.labels)}
    for key in ("classifier_dropout", "seq_classif_dropout"):
        if hasattr(settings, key):
            setattr(settings, key, head.dropout)


def _check_length(settings: PretrainedConfig, config: Config, key: str, length: int) -> None:
    longest = getattr(settings, "max_position_embeddings", None)
    if isinstance(longest, int) and length > longest:
        raise ConfigError(
            f"{key}={length} is longer than the {longest} positions of "
            f"model.name={config.model.name}"
        )


def _origin(config: Config) -> dict[str, object]:
    settings = config.tokenizer
    origin: dict[str, object] = {"trust_remote_code": settings.trust_remote_code}
    return origin if settings.revision is None else {**origin, "revision": settings.revision}


def _failed(name: str, error: Exception, auto: str = "this task") -> str:
    return (
        f"model.name={name} could not be loaded ({type(error).__name__}: {first_line(error)}); "
        f"name a folder or an id of the hub that has weights for {auto}"
    )
