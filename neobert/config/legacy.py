"""Keys and spellings of older configurations: one table, translated with one warning each.

Applied to a mapping of dotted keys, whether it came from a YAML file or from the command line.
After it a run knows one spelling only.
"""

from collections.abc import Mapping

from neobert.config.schema import Flat, choices
from neobert.console import get_logger

log = get_logger(__name__)


MUON = "optimizer.muon_config"
RENAMED: dict[str, str] = {
    "mixed_precision": "trainer.mixed_precision",
    "trainer.bf16": "trainer.mixed_precision",
    "trainer.seed": "seed",
    "trainer.run_name": "wandb.name",
    "trainer.learning_rate": "optimizer.lr",
    "trainer.warmup_steps": "scheduler.warmup_steps",
    "trainer.max_grad_norm": "trainer.gradient_clipping",
    "trainer.dir": "trainer.output_dir",
    "trainer.train_batch_size": "trainer.per_device_train_batch_size",
    "trainer.eval_batch_size": "trainer.per_device_eval_batch_size",
    "trainer.max_ckpt": "trainer.save_total_limit",
    "dataset.tokenizer_name": "tokenizer.name",
    "dataset.column": "dataset.text_column",
    "dataset.path_to_disk": "dataset.path",
    "contrastive.pretraining_prob": "dataset.pretraining_prob",
    "contrastive.pretraining_dataset_path": "contrastive.pretraining_dataset",
    "contrastive.pretrained_checkpoint": "pretrained_checkpoint",
    "tokenizer.tokenizer_name_or_path": "tokenizer.name",
    "model.name_or_path": "model.name",
    "model.flash_attention": "model.attn_backend",
    "model.use_flash_attention": "model.attn_backend",
    "model.xformers_attention": "model.attn_backend",
    "model.pretrained_config_path": "glue.pretrained_model_path",
    "model.pretrained_checkpoint_dir": "glue.pretrained_checkpoint_dir",
    "model.pretrained_checkpoint": "glue.pretrained_checkpoint",
    "model.allow_random_weights": "glue.allow_random_weights",
    "model.classifier_dropout": "glue.classifier_dropout",
    "model.transfer_from_task": "glue.transfer_from_task",
    f"{MUON}.algorithm": f"{MUON}.orthogonalization",
    f"{MUON}.polar_express": f"{MUON}.orthogonalization",
}
"""Old key → today's; ``null`` under an old key says nothing.

Some are older names in pszemraj/NeoBERT too, and are still fields.
"""

IGNORED = ("trainer.remove_unused_columns",)
"""Old keys without effect."""

OLD_SECTION, NEW_SECTION = "optimizer.hparams.", "optimizer."
"""The keys of the older section have moved up."""

OLD_DEFAULTS: Flat = {"trainer.max_ckpt": 3}
"""Values of old keys that are fields and that say nothing: a saved configuration has them."""


def _switch(true: str, false: str) -> dict[str, str]:
    """What an older switch means for the key in its place."""
    words = dict.fromkeys(("true", "yes", "on", "1"), true)
    return words | dict.fromkeys(("false", "no", "off", "0", "none"), false)


SPELLINGS: dict[str, Mapping[str, str]] = {
    "model.attn_backend": {
        **_switch("flash_attn_varlen", "sdpa"),
        "flash": "flash_attn_varlen",
        "flash_attn": "flash_attn_varlen",
    },
    "trainer.mixed_precision": {**_switch("bf16", "no"), "fp32": "no"},
    f"{MUON}.orthogonalization": {
        **_switch("polar_express", "newton_schulz"),
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


def translate(values: Flat, origin: str, problems: list[str]) -> Flat:
    """``values`` in today's spelling; warns once per old key.

    Where an old and a new key are set to different values, that is added to ``problems``.
    """
    translated: Flat = {}
    sources: dict[str, str] = {}
    for key, value in values.items():
        new = current_key(key)
        if new != key and value in (None, OLD_DEFAULTS.get(key)):
            continue
        if key in IGNORED:
            log.warning("%s: %s has no effect and is ignored", origin, key)
            continue
        if new != key:
            log.warning("%s: %s is an older key; write %s", origin, key, new)
        result = spelled(new, value)
        if new in translated and not _same(translated[new], result):
            problems.append(
                f"{origin}: {sources[new]} and {key} are both set, to different values "
                f"({translated[new]} and {result}); keep one, preferably {new}"
            )
        translated[new], sources[new] = result, key
    return translated


def current_key(key: str) -> str:
    """Today's name of a key."""
    if key.startswith(OLD_SECTION):
        key = key.replace(OLD_SECTION, NEW_SECTION)
    return RENAMED.get(key, key)


def spelled(key: str, value: object) -> object:
    """The spelling that the checks know of a value."""
    if value is None:
        return NULLS.get(key)
    if not isinstance(value, str | bool | int):
        return value
    spellings = SPELLINGS.get(key, {})
    word = str(value).lower()
    if word in spellings:
        return spellings[word]
    return word if key in choices() and isinstance(value, str) else value


def _same(value: object, other: object) -> bool:
    """Whether two values mean the same: ``7`` and ``"7"``, ``1e-4`` and ``0.0001``."""
    try:
        return value == other or float(str(value)) == float(str(other))
    except ValueError:
        return str(value) == str(other)
