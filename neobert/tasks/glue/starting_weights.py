"""What a fine-tuning run starts from: which weights, with their architecture and tokenizer.

Decided from the ``glue`` section before any data is read. Architecture and tokenizer are those of
the weights; a setting that says otherwise is an error.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from neobert.config.compose import compose_config
from neobert.config.model import ModelConfig, fields_of, with_shape_of
from neobert.config.ready import GLUE_WITHOUT_WEIGHTS
from neobert.config.root import Config
from neobert.config.tokenizer import TokenizerConfig
from neobert.console import get_logger
from neobert.data.tokenizer import load_tokenizer
from neobert.errors import ConfigError
from neobert.files import user_path
from neobert.model.pretrained import INFORMATION
from neobert.model.weight_files import read_json_object
from neobert.tasks.glue.tasks import TASKS
from neobert.tasks.glue.transfer import source_run
from neobert.training.start import Pretrained, open_weights

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ClassifierStart:
    """Where the weights come from, and what is known before they are read."""

    kind: str
    """``random``, ``encoder``, ``transfer`` (encoder and dense layer), ``hub``, or ``resumed``
    (the checkpoint's, which the Trainer reads)."""

    tokenizer: PreTrainedTokenizerFast | None
    """``None`` for models of the hub, which bring their own."""

    model: ModelConfig
    """Shape and vocabulary of the weights, everything else of the run."""

    weights: Pretrained | None = None
    """What the model is built from; ``None`` where nothing is to be read."""

    record: dict[str, object] = field(default_factory=dict)
    """For ``summary.json``: which weights these are."""


def find_start(config: Config, resume: Path | None = None) -> ClassifierStart:
    """What ``config`` starts from. Raises ``ConfigError`` where it cannot.

    A run that resumes at the checkpoint ``resume`` has all it needs there. Models of the hub still
    need their folder, which alone knows their architecture.
    """
    record = None if resume is None else read_json_object(resume / INFORMATION).get("weights")
    if resume is not None and isinstance(record, dict) and record.get("kind") != "hub":
        # What the run once started from may have moved, or be another by now.
        start = _encoder(_without_tokenizer(config), "resumed", Pretrained(resume), {})
        return replace(start, weights=None, record=record)
    key = _deciding_key(config)
    if key == "glue.transfer_from_task":
        return _transfer(config)
    if key == "model.from_hub":
        return _hub(config)
    if key == "glue.allow_random_weights":
        return _random(config)
    return _named(config, key)


def _deciding_key(config: Config) -> str:
    """The strongest of the keys that say where to start; a warning reports the others."""
    glue = config.glue
    architecture = glue.allow_random_weights and _is_yaml(str(glue.pretrained_model_path))
    values = {
        "glue.transfer_from_task": glue.transfer_from_task,
        "model.from_hub": config.model.from_hub,
        "glue.pretrained_checkpoint_dir": glue.pretrained_checkpoint_dir,
        "glue.pretrained_model_path": glue.pretrained_model_path,
        "model.init_from": config.model.init_from,
        "glue.allow_random_weights": glue.allow_random_weights and not architecture,
    }
    keys = [key for key, value in values.items() if value]
    for key in keys[1:]:
        if not _is_config_of(glue.pretrained_checkpoint_dir, str(values[key])):
            log.warning(
                "%s=%s has no effect: %s=%s names the weights",
                *(key, values[key], keys[0], values[keys[0]]),
            )
    if not keys:
        raise ConfigError(GLUE_WITHOUT_WEIGHTS)
    return keys[0]


def _is_config_of(run: str | None, path: str) -> bool:
    """Whether ``path`` is the ``config.yaml`` of ``run``: the reference sets both keys."""
    if run is None or not _is_yaml(path):
        return False
    folder = user_path(run).resolve()
    return folder.is_relative_to(user_path(path).resolve().parent)


def _is_yaml(path: str) -> bool:
    return Path(path).suffix in (".yaml", ".yml")


def _named(config: Config, key: str) -> ClassifierStart:
    """The weights in the place that ``key`` names.

    Of a ``config.yaml`` alone the weights may be left aside (``allow_random_weights``).
    """
    glue, selector_key = config.glue, "glue.pretrained_checkpoint"
    section, _, name = key.partition(".")
    place, selector = str(getattr(getattr(config, section), name)), glue.pretrained_checkpoint
    if selector is None:
        selector, selector_key = config.pretrained_checkpoint, "pretrained_checkpoint"
    start = _encoder(config, "encoder", open_weights(place, selector, key, selector_key), {})
    if _is_yaml(place) and glue.allow_random_weights:
        record: dict[str, object] = {"kind": "random", "architecture": place}
        return replace(start, kind="random", weights=None, record=record)
    return start


def _transfer(config: Config) -> ClassifierStart:
    task = config.glue.task_name
    source = TASKS[task].start_from if task in TASKS else None
    if source is None:
        able = ", ".join(name for name, row in TASKS.items() if row.start_from)
        raise ConfigError(
            f"glue.transfer_from_task: {task} has no usual source; those that have: {able}"
        )
    run = source_run(config, source)
    weights = open_weights(run.checkpoint, key="glue.transfer_from_task")
    return _encoder(
        config, "transfer", weights, {"task": source, "score": run.score, "run": run.folder}
    )


def _random(config: Config) -> ClassifierStart:
    info = load_tokenizer(config.tokenizer)
    model = replace(config.model, vocab_size=info.vocab_size, pad_token_id=info.pad_token_id)
    return ClassifierStart("random", info.tokenizer, model, record={"kind": "random"})


def _encoder(
    config: Config, kind: str, weights: Pretrained, more: dict[str, object]
) -> ClassifierStart:
    _refuse_contradictions(config, weights)
    if kind != "resumed":
        log.info(
            "starting from %s: %d × %d; shape and vocabulary are those of the weights",
            *(weights.folder, weights.config.hidden_size, weights.config.num_hidden_layers),
        )
    return ClassifierStart(
        kind,
        weights.tokenizer_or(config.tokenizer),
        with_shape_of(weights.config, config.model),
        weights,
        {
            "kind": kind,
            "folder": str(weights.folder.resolve()),
            "sha256": weights.sha256,
            **more,
        },
    )


def _refuse_contradictions(config: Config, weights: Pretrained) -> None:
    """A requested architecture must be the one of the weights.

    Requested is what differs from the settings of a bare ``task=glue``.
    """
    defaults, trained = compose_config(["task=glue"]).model, weights.config
    problems = [
        f"model.{key}={getattr(config.model, key)} contradicts {weights.folder}, whose weights "
        f"have {getattr(trained, key)}: leave it out, the architecture comes with the weights"
        for key in fields_of("shape", "positions", "vocabulary")
        if getattr(config.model, key) != getattr(defaults, key)
        and getattr(config.model, key) != getattr(trained, key)
    ]
    longest = config.glue.max_seq_length
    if not trained.rope and longest > trained.max_position_embeddings:
        problems.append(
            f"glue.max_seq_length={longest} is longer than the {trained.max_position_embeddings} "
            f"positions that {weights.folder} has learned"
        )
    if problems:
        raise ConfigError(*problems)


def _without_tokenizer(config: Config) -> Config:
    return replace(config, tokenizer=TokenizerConfig())


def _hub(config: Config) -> ClassifierStart:
    if config.model.name is None:
        raise ConfigError("model.from_hub=true needs model.name: a folder or an id of the hub")
    return ClassifierStart(
        "hub", None, config.model, record={"kind": "hub", "name": config.model.name}
    )
