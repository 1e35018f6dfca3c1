"""What a GLUE run starts from: the keys of the ``glue`` section beside those of all fine-tuning.

Decided before any data is read. Architecture and tokenizer are those of the weights; a setting that
says otherwise is an error.
"""

from dataclasses import replace
from pathlib import Path

from neobert.config.compose import compose_config
from neobert.config.model import fields_of
from neobert.config.ready import without_weights
from neobert.config.root import Config
from neobert.errors import ConfigError
from neobert.files import user_path
from neobert.tasks.glue.tasks import TASKS
from neobert.tasks.glue.transfer import source_run
from neobert.training.encoder_start import (
    EncoderStart,
    deciding_key,
    hub_start,
    random_start,
    resumed_start,
    start_of,
)
from neobert.training.start import Pretrained, open_weights


def find_start(config: Config, resume: Path | None = None) -> EncoderStart:
    """What ``config`` starts from. Raises ``ConfigError`` where it cannot."""
    if (resumed := resumed_start(config, resume)) is not None:
        _refuse_contradictions(config, resumed, str(resume))
        return resumed
    key = _key(config)
    if key == "glue.transfer_from_task":
        return _transfer(config)
    if key == "model.from_hub":
        return hub_start(config)
    if key == "glue.allow_random_weights":
        return random_start(config)
    return _named(config, key)


def _key(config: Config) -> str:
    """The strongest of the keys that say where to start."""
    glue, run = config.glue, config.glue.pretrained_checkpoint_dir
    architecture = glue.allow_random_weights and _is_yaml(str(glue.pretrained_model_path))
    values = {
        "glue.transfer_from_task": glue.transfer_from_task,
        "model.from_hub": config.model.from_hub,
        "glue.pretrained_checkpoint_dir": run,
        "glue.pretrained_model_path": _unless_of(run, glue.pretrained_model_path),
        "model.init_from": _unless_of(run, config.model.init_from),
        "glue.allow_random_weights": glue.allow_random_weights and not architecture,
    }
    key = deciding_key(values)
    if key is None:
        raise ConfigError(without_weights("glue"))
    return key


def _unless_of(run: str | None, path: str | None) -> str | None:
    """``path``, unless it is the ``config.yaml`` of ``run``: the reference sets both keys."""
    if run is None or path is None or not _is_yaml(path):
        return path
    folder = user_path(run).resolve()
    return None if folder.is_relative_to(user_path(path).resolve().parent) else path


def _is_yaml(path: str) -> bool:
    return Path(path).suffix in (".yaml", ".yml")


def _named(config: Config, key: str) -> EncoderStart:
    """The weights in the place that ``key`` names.

    Of a ``config.yaml`` alone the weights may be left aside (``allow_random_weights``).
    """
    glue, selector_key = config.glue, "glue.pretrained_checkpoint"
    section, _, name = key.partition(".")
    place, selector = str(getattr(getattr(config, section), name)), glue.pretrained_checkpoint
    if selector is None:
        selector, selector_key = config.pretrained_checkpoint, "pretrained_checkpoint"
    start = _trained(config, open_weights(place, selector, key, selector_key))
    if _is_yaml(place) and glue.allow_random_weights:
        record: dict[str, object] = {"kind": "random", "architecture": place}
        return replace(start, kind="random", weights=None, record=record)
    return start


def _transfer(config: Config) -> EncoderStart:
    task = config.glue.task_name
    source = TASKS[task].start_from if task in TASKS else None
    if source is None:
        able = ", ".join(name for name, row in TASKS.items() if row.start_from)
        raise ConfigError(
            f"glue.transfer_from_task: {task} has no usual source; those that have: {able}"
        )
    run = source_run(config, source)
    weights = open_weights(run.checkpoint, key="glue.transfer_from_task")
    start = _trained(config, weights, "transfer")
    origin = {"task": source, "score": run.score, "run": run.folder}
    return replace(start, record={**start.record, **origin})


def _trained(config: Config, weights: Pretrained, kind: str = "encoder") -> EncoderStart:
    start = start_of(config, weights, kind)
    _refuse_contradictions(config, start, str(weights.folder))
    return start


def _refuse_contradictions(config: Config, start: EncoderStart, folder: str) -> None:
    """A requested architecture must be the one of the weights in ``folder``.

    Requested is what differs from the settings of a bare ``task=glue``.
    """
    defaults, trained = compose_config(["task=glue"]).model, start.model
    problems = [
        f"model.{key}={getattr(config.model, key)} contradicts {folder}, whose weights "
        f"have {getattr(trained, key)}: leave it out, the architecture comes with the weights"
        for key in fields_of("shape", "positions", "vocabulary")
        if getattr(config.model, key) != getattr(defaults, key)
        and getattr(config.model, key) != getattr(trained, key)
    ]
    if problems:
        raise ConfigError(*problems)
