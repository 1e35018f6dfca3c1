"""Keys and spellings of older configurations: one table, translated with one warning each.

Applied to a mapping of dotted keys, whether it came from a YAML file or from the command line.
After it a run knows one spelling only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from neobert.config.schema import Flat
from neobert.console import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Renamed:
    """An old key and what has become of it."""

    new: str | None
    """The key of today; ``None``: it has no effect and is dropped."""

    translate: Callable[[object], object] = lambda value: value
    """Old value to new value."""

    unset: tuple[object, ...] = ()
    """Values that mean that the old key was not set."""


def _switch(true: str, false: str) -> Callable[[object], object]:
    """Translate an old switch; another word stays, and the check of the new key refuses it."""
    words = {"true": true, "yes": true, "on": true, "1": true}
    words |= {"false": false, "no": false, "off": false, "0": false, "none": false}
    return lambda value: words.get(str(value).lower(), value)


_attention = _switch("flash_attn_varlen", "sdpa")
_precision = _switch("bf16", "no")
_orthogonalization = _switch("polar_express", "newton_schulz")


MUON = "optimizer.muon_config"
RENAMED = {
    "mixed_precision": Renamed("trainer.mixed_precision"),
    "trainer.bf16": Renamed("trainer.mixed_precision", _precision),
    "trainer.seed": Renamed("seed"),
    "trainer.run_name": Renamed("wandb.name", unset=(None,)),
    "trainer.learning_rate": Renamed("optimizer.lr"),
    "trainer.warmup_steps": Renamed("scheduler.warmup_steps"),
    "trainer.max_grad_norm": Renamed("trainer.gradient_clipping"),
    "trainer.dir": Renamed("trainer.output_dir"),
    "trainer.remove_unused_columns": Renamed(None),
    "trainer.train_batch_size": Renamed("trainer.per_device_train_batch_size", unset=(None,)),
    "trainer.eval_batch_size": Renamed("trainer.per_device_eval_batch_size", unset=(None,)),
    "trainer.max_ckpt": Renamed("trainer.save_total_limit", unset=(None, 3)),
    "dataset.tokenizer_name": Renamed("tokenizer.name", unset=(None,)),
    "dataset.column": Renamed("dataset.text_column"),
    "dataset.path_to_disk": Renamed("dataset.path"),
    "contrastive.pretraining_prob": Renamed("dataset.pretraining_prob"),
    "contrastive.pretraining_dataset_path": Renamed(
        "contrastive.pretraining_dataset", unset=(None,)
    ),
    "contrastive.pretrained_checkpoint": Renamed("pretrained_checkpoint", unset=(None,)),
    "tokenizer.tokenizer_name_or_path": Renamed("tokenizer.name", unset=(None,)),
    "model.name_or_path": Renamed("model.name", unset=(None,)),
    "model.flash_attention": Renamed("model.attn_backend", _attention),
    "model.use_flash_attention": Renamed("model.attn_backend", _attention),
    "model.xformers_attention": Renamed("model.attn_backend", _attention),
    "model.pretrained_config_path": Renamed("glue.pretrained_model_path", unset=(None,)),
    "model.pretrained_checkpoint_dir": Renamed("glue.pretrained_checkpoint_dir", unset=(None,)),
    "model.pretrained_checkpoint": Renamed("glue.pretrained_checkpoint", unset=(None,)),
    "model.allow_random_weights": Renamed("glue.allow_random_weights", unset=(None,)),
    "model.classifier_dropout": Renamed("glue.classifier_dropout", unset=(None,)),
    "model.transfer_from_task": Renamed("glue.transfer_from_task", unset=(None,)),
    f"{MUON}.algorithm": Renamed(f"{MUON}.orthogonalization", unset=(None,)),
    f"{MUON}.polar_express": Renamed(
        f"{MUON}.orthogonalization", _orthogonalization, unset=(None,)
    ),
}
"""Old key → today's. Two keys of the reference that are older names of other keys are here too."""

LOG_INTERVAL, LOGGING_STEPS = "wandb.log_interval", "trainer.logging_steps"
"""Nothing is logged more often than every ``logging_steps``, so the one alone sets both."""

OLD_SECTION, NEW_SECTION = "optimizer.hparams.", "optimizer."
"""The keys of the older section have moved up."""

SPELLINGS: dict[str, Mapping[str, str]] = {
    "model.attn_backend": {"flash": "flash_attn_varlen", "flash_attn": "flash_attn_varlen"},
    "trainer.mixed_precision": {
        "false": "no",
        "off": "no",
        "fp32": "no",
        "none": "no",
        "true": "bf16",
        "yes": "bf16",
        "on": "bf16",
    },
    f"{MUON}.orthogonalization": {
        "polar": "polar_express",
        "polar-express": "polar_express",
        "ns5": "newton_schulz",
        "newton-schulz": "newton_schulz",
        "newton_schulz5": "newton_schulz",
        "newton-schulz5": "newton_schulz",
        "newton_schulz_5": "newton_schulz",
        "newton-schulz-5": "newton_schulz",
    },
    "optimizer.name": {"muon-clip": "muonclip", "muon_clip": "muonclip"},
    "wandb.watch": {"weights": "parameters", "false": "off"},
    "mteb_pooling": {"avg": "mean"},
    "glue.classifier_pooling": {"mean": "avg", "first": "cls", "bos": "cls"},
    "trainer.eval_strategy": {"false": "no"},
    "trainer.save_strategy": {"false": "no"},
}
"""Other spellings of a value, without a warning: YAML reads a bare ``no`` as false."""

NULLS: Flat = {"dataset.path": "", "dataset.num_proc": 0, "trainer.max_steps": -1}
"""What ``null`` means for keys of another type, where the reference takes it."""

ANY_CASE = (
    "model.hidden_act",
    "model.attn_backend",
    "optimizer.name",
    f"{MUON}.orthogonalization",
    "scheduler.name",
    "task",
    "trainer.mixed_precision",
    "contrastive.pooling",
    "glue.classifier_activation",
    "glue.classifier_pooling",
    "contrastive.loss_type",
)
"""Choices that are written in any case."""


def translate(values: Flat, origin: str, problems: list[str]) -> Flat:
    """``values`` in today's spelling; warns once per old key.

    Where an old and a new key are set to different values, that is added to ``problems``.
    """
    translated: Flat = {}
    sources: dict[str, str] = {}
    if LOG_INTERVAL in values and LOGGING_STEPS not in values:
        log.warning("%s: %s sets %s too, unless that is set", origin, LOG_INTERVAL, LOGGING_STEPS)
        values = {**values, LOGGING_STEPS: values[LOG_INTERVAL]}
    for key, value in values.items():
        old = _renamed(key)
        if value in old.unset:
            continue
        if old.new is None:
            log.warning("%s: %s has no effect and is ignored", origin, key)
            continue
        if old.new != key:
            log.warning("%s: %s is an older key; write %s", origin, key, old.new)
        new, result = old.new, spelled(old.new, old.translate(value))
        if new in translated and not _same(translated[new], result):
            problems.append(
                f"{origin}: {sources[new]} and {key} are both set, to different values "
                f"({translated[new]} and {result}); keep one, preferably {new}"
            )
        translated[new], sources[new] = result, key
    return translated


def current_key(key: str) -> str:
    """Today's name of a key."""
    return _renamed(key).new or key


def _renamed(key: str) -> Renamed:
    if key.startswith(OLD_SECTION):
        key = key.replace(OLD_SECTION, NEW_SECTION)
    return RENAMED.get(key, Renamed(key))


def spelled(key: str, value: object) -> object:
    """The spelling that the checks know of a value."""
    if value is None:
        return NULLS.get(key)
    if not isinstance(value, str | bool):
        return value
    spellings = SPELLINGS.get(key, {})
    word = str(value).lower()
    if word in spellings:
        return spellings[word]
    return word if key in ANY_CASE and isinstance(value, str) else value


def _same(value: object, other: object) -> bool:
    """Whether two values mean the same: ``7`` and ``"7"``, ``1e-4`` and ``0.0001``."""
    try:
        return value == other or float(str(value)) == float(str(other))
    except ValueError:
        return str(value) == str(other)
