"""Settings that would do nothing: what is adapted, and what is reported."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from omegaconf import OmegaConf

from neobert.config.layers import Merged
from neobert.config.root import Config
from neobert.config.schema import default_of, field_types
from neobert.console import get_logger

log = get_logger(__name__)

TABLE = """\
task!=glue: glue.* tokenizer.padding
task!=token_classification: tokens.*
task!=question_answering: answers.*
task!=contrastive: contrastive.* dataset.alpha dataset.load_all_from_disk
task!=contrastive: dataset.pretraining_prob trainer.dataloader_num_workers
task!=mteb: mteb_*
task=mteb: optimizer.* scheduler.* -- task=mteb trains nothing
task=glue: dataset.num_workers -- the key of task=glue is glue.num_workers
task=contrastive: dataset.num_workers -- the key of task=contrastive is \
trainer.dataloader_num_workers
task=token_classification: dataset.num_workers -- the key of task=token_classification is \
tokens.num_workers
task=question_answering: dataset.num_workers -- the key of task=question_answering is \
answers.num_workers
task!=pretraining: dataset.crop_* dataset.filter_by_length dataset.min_length
task!=pretraining: dataset.num_workers dataset.pre_tokenize* dataset.shuffle_*
task!=pretraining: dataset.skip_steps dataset.stream* dataset.text_column
task!=pretraining: datacollator.max_length datacollator.pack_sequences
task!=pretraining: datacollator.eval_* tokenizer.truncation
task!=pretraining, contrastive: datacollator.mlm_* datacollator.mask_*
task!=pretraining, contrastive: datacollator.span_* datacollator.*_share
task!=pretraining, glue, token_classification, question_answering: model.init_from
task=pretraining, contrastive: model.from_hub -- it is for fine-tuning and mteb
glue.pretrained_checkpoint!=null: pretrained_checkpoint -- glue.pretrained_checkpoint is set
task=pretraining, token_classification, question_answering & model.init_from=null: \
pretrained_checkpoint -- model.init_from names no run
task=glue & model.init_from=null & glue.pretrained_model_path=null & \
glue.pretrained_checkpoint_dir=null: \
pretrained_checkpoint glue.pretrained_checkpoint -- no key names a run
task=glue: scheduler.total_steps -- in task=glue the schedule is as long as the run
scheduler.warmup_percent!=null: scheduler.warmup_steps -- scheduler.warmup_percent is set
scheduler.decay_percent!=null: scheduler.decay_steps -- scheduler.decay_percent is set
scheduler.name!=cosine: scheduler.num_cycles -- it is for scheduler=cosine
trainer.max_steps>0: trainer.num_train_epochs -- trainer.max_steps is set
trainer.eval_strategy!=steps: trainer.eval_steps
trainer.save_strategy!=steps: trainer.save_steps
trainer.save_model=false: trainer.save_steps -- trainer.save_model=false saves nothing
task=contrastive: trainer.eval_max_batches -- in task=contrastive dataset.eval_samples bounds it
trainer.torch_compile=false: trainer.torch_compile_*
dataset.filter_by_length=false: dataset.min_length -- set dataset.filter_by_length=true too
dataset.pre_tokenize=false: dataset.pre_tokenize_output -- set dataset.pre_tokenize=true too
dataset.path!=null & dataset.name!=local & task!=contrastive: dataset.name -- dataset.path is set
dataset.path=null & dataset.name=factbook, imdb, shakespeare: dataset.text_column -- \
packaged corpora have a text column of their own
tokenizer.path!=null: tokenizer.name -- tokenizer.path is set
tokenizer.train_vocab_size!=null: tokenizer.name -- tokenizer.train_vocab_size trains one
task=contrastive, mteb: datacollator.pad_to_multiple_of -- \
it is for padded batches of pretraining and GLUE
datacollator.pack_sequences=false: datacollator.max_length -- it is the length of packed rows
model.rope=false: model.rope_theta
model.ngpt!=true: model.base_scale
"""
"""When which keys have no effect, and why; the first that applies is reported.

Without a reason it is the condition itself: ``it is for key=value`` of a ``key!=value``.
(``dataset.name`` beside ``dataset.path``: the path of task=contrastive is that of the tokens.)
"""

RULES = [
    (condition, *rest.partition(" -- ")[::2])
    for condition, _, rest in (line.partition(": ") for line in TABLE.splitlines())
]
"""Condition, keys, reason of each line."""


def adapt(merged: Merged) -> None:
    """Change what a configuration of pszemraj/NeoBERT says and that program does not act upon.

    One line tells of each change.
    """
    padding, best = "datacollator.pad_to_multiple_of", "trainer.load_best_model_at_end"
    if merged.value("datacollator.pack_sequences") and merged.value(padding):
        _change(merged, padding, None, "packed rows have a fixed length")
    if merged.value(best) and merged.value("trainer.save_strategy") == "no":
        reason = "trainer.save_strategy=no saves no checkpoint to load; save_strategy=best would"
        _change(merged, best, False, reason)


def _change(merged: Merged, key: str, value: object, reason: str) -> None:
    before = merged.value(key)
    log.warning("%s: %s=%s is ignored: %s", merged.origin(key), key, before, reason)
    OmegaConf.update(merged.tree, key, value)


def ineffective(config: Config, merged: Merged) -> Iterator[str]:
    """A line for each key that the user set to something else than its default, to no effect."""
    name = config.optimizer.name
    if config.optimizer.muon_config is not None and name != "muonclip":
        yield f"optimizer.muon_config has no effect: it is for optimizer=muonclip, this is {name}"
    if config.datacollator.mlm_probability == 0 and config.task == "pretraining":
        yield "datacollator.mlm_probability=0: no token is predicted, so nothing is learnt"
    for key in merged.set_by_user():
        is_changed = key in field_types() and _value(config, key) != default_of(key)
        if is_changed and (reason := _reason(config, key)) is not None:
            yield f"{merged.origin(key)}: {key} has no effect: {reason}"


def _reason(config: Config, key: str) -> str | None:
    """Why ``key`` has no effect; ``None`` if it has one."""
    for condition, keys, reason in RULES:
        is_about_key = any(fnmatchcase(key, pattern) for pattern in keys.split())
        if is_about_key and all(_holds(part, config) for part in condition.split(" & ")):
            needed = condition.replace("!=", "=")
            return reason or (f"it is for {needed}" if "!=" in condition else needed)
    return None


def _holds(condition: str, config: Config) -> bool:
    """Whether ``key=a, b``, ``key!=a, b`` or ``key>0`` is true; no value is ``null``."""
    key, sign, values = re.split("(!?=|>)", condition)
    value = _value(config, key)
    if sign == ">":
        return isinstance(value, int | float) and value > float(values)
    text = "null" if value in (None, "") else str(value).lower()
    return (text in values.split(", ")) == (sign == "=")


def _value(config: Config, key: str) -> object:
    value: object = config
    for name in key.split("."):
        value = getattr(value, name, None)
    return value
