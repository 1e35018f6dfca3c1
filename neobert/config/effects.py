"""Settings that would do nothing: what is adapted, and what is reported."""

from collections.abc import Callable, Iterator
from operator import attrgetter

from neobert.config.layers import Merged
from neobert.config.root import Config
from neobert.config.schema import default_of, field_types
from neobert.config.values import as_meant
from neobert.console import get_logger

log = get_logger(__name__)

PACKAGED = ("factbook", "imdb", "shakespeare")
"""Corpora that come as Python packages, with a text column of their own."""

TASK_OF = {
    "glue": "glue",
    "contrastive": "contrastive",
    "tokens": "token_classification",
    "answers": "question_answering",
}
"""Section -> the only task that reads it."""

ONLY_IN = {
    ("pretraining",): (
        *(f"dataset.{name}" for name in ("crop_min_length", "crop_share", "filter_by_length")),
        *(f"dataset.{name}" for name in ("min_length", "num_workers", "pre_tokenize", "streaming")),
        *(f"dataset.{name}" for name in ("pre_tokenize_output", "shuffle_buffer_size")),
        *(f"dataset.{name}" for name in ("skip_steps", "stream_readers", "text_column")),
        *(f"datacollator.{name}" for name in ("max_length", "pack_sequences")),
        "datacollator.eval_mlm_probabilities",
        "tokenizer.truncation",
    ),
    ("pretraining", "contrastive"): (
        *(f"datacollator.{name}" for name in ("mlm_probability", "mlm_schedule", "mask_all")),
        *(f"datacollator.{name}" for name in ("mlm_schedule_shape", "mask_unit", "span_max")),
        *(f"datacollator.{name}" for name in ("span_p", "replace_share", "random_share")),
    ),
    ("contrastive",): (
        *(f"dataset.{name}" for name in ("alpha", "load_all_from_disk", "pretraining_prob")),
        "trainer.dataloader_num_workers",
    ),
    ("glue",): ("tokenizer.padding",),
}
"""Tasks -> the keys that only these read."""

WORKERS_OF = {
    "glue": "glue.num_workers",
    "contrastive": "trainer.dataloader_num_workers",
    "token_classification": "tokens.num_workers",
    "question_answering": "answers.num_workers",
}
"""Task -> its key of ``dataset.num_workers``."""

STARTED = ("pretraining", "glue", "token_classification", "question_answering")
"""Tasks that start from ``model.init_from``."""

NAMES_OF_RUNS = (
    "glue.pretrained_model_path",
    "glue.pretrained_checkpoint_dir",
    "model.init_from",
)

Condition = Callable[[Config], bool]


def adapt(merged: Merged) -> None:
    """Change what a configuration of pszemraj/NeoBERT says and that program does not act upon.

    One line tells of each change.
    """
    padding, best = "datacollator.pad_to_multiple_of", "trainer.load_best_model_at_end"
    if _value(merged, "datacollator.pack_sequences") and _value(merged, padding):
        _change(merged, padding, None, "packed rows have a fixed length")
    if _value(merged, best) and _value(merged, "trainer.save_strategy") == "no":
        reason = "trainer.save_strategy=no saves no checkpoint to load; save_strategy=best would"
        _change(merged, best, False, reason)


def ineffective(config: Config, merged: Merged) -> Iterator[str]:
    """A line for each key that the user set to something else than its default, to no effect."""
    name = config.optimizer.name
    if config.optimizer.muon_config is not None and name != "muonclip":
        yield f"optimizer.muon_config has no effect: it is for optimizer=muonclip, this is {name}"
    if config.datacollator.mlm_probability == 0 and config.task == "pretraining":
        yield "datacollator.mlm_probability=0: no token is predicted, so nothing is learnt"
    for key in merged.set_by_user():
        if key in field_types() and _of(config, key) != default_of(key):
            reasons = (reason for reason, applies in _reasons(key) if applies(config))
            if (reason := next(reasons, None)) is not None:
                yield f"{merged.origin(key)}: {key} has no effect: {reason}"


def _reasons(key: str) -> Iterator[tuple[str, Condition]]:
    section = key.partition(".")[0]
    if section in TASK_OF:
        task = TASK_OF[section]
        yield f"it is for task={task}", lambda config: config.task != task
    if key.startswith("mteb_"):
        yield "it is for task=mteb", lambda config: config.task != "mteb"
    if section in ("optimizer", "scheduler"):
        yield "task=mteb trains nothing", _is("task", "mteb")
    if key == "dataset.num_workers":
        for task, ours in WORKERS_OF.items():
            yield f"the key of task={task} is {ours}", _is("task", task)
    for tasks, keys in ONLY_IN.items():
        if key in keys:
            yield f"it is for task={', '.join(tasks)}", _not("task", *tasks)
    yield from REASONS.get(key, ())


def _of(config: Config, key: str) -> object:
    section, _, field = key.rpartition(".")
    owner = attrgetter(section)(config) if section else config
    return getattr(owner, field, None)


def _value(merged: Merged, key: str) -> object:
    try:
        return as_meant(merged.values.get(key, default_of(key)), field_types()[key])
    except ValueError:
        return default_of(key)


def _change(merged: Merged, key: str, value: object, reason: str) -> None:
    log.warning("%s: %s=%s is ignored: %s", merged.origin(key), key, merged.values[key], reason)
    merged.values[key] = value


def _is(key: str, *values: object) -> Condition:
    return lambda config: _of(config, key) in values


def _not(key: str, *values: object) -> Condition:
    return lambda config: _of(config, key) not in values


def _set(key: str) -> Condition:
    return lambda config: bool(_of(config, key))


def _in_task(task: str, *keys: str) -> Condition:
    """In ``task``, where none of ``keys`` is set."""
    return lambda config: config.task == task and not any(_of(config, key) for key in keys)


REASONS: dict[str, tuple[tuple[str, Condition], ...]] = {
    "pretrained_checkpoint": (
        ("glue.pretrained_checkpoint is set", _not("glue.pretrained_checkpoint", None)),
        (
            "model.init_from names no run",
            lambda config: (
                config.task in STARTED and config.task != "glue" and config.model.init_from is None
            ),
        ),
        ("no key names a run", _in_task("glue", *NAMES_OF_RUNS)),
    ),
    "glue.pretrained_checkpoint": (("no key names a run", _in_task("glue", *NAMES_OF_RUNS)),),
    "scheduler.total_steps": (
        ("in task=glue the schedule is as long as the run", _is("task", "glue")),
    ),
    "scheduler.warmup_steps": (
        ("scheduler.warmup_percent is set", _not("scheduler.warmup_percent", None)),
    ),
    "scheduler.decay_steps": (
        ("scheduler.decay_percent is set", _not("scheduler.decay_percent", None)),
    ),
    "scheduler.num_cycles": (("it is for scheduler=cosine", _not("scheduler.name", "cosine")),),
    "trainer.num_train_epochs": (
        ("trainer.max_steps is set", lambda config: config.trainer.max_steps > 0),
    ),
    "trainer.eval_steps": (
        ("it is for trainer.eval_strategy=steps", _not("trainer.eval_strategy", "steps")),
    ),
    "trainer.save_steps": (
        ("it is for trainer.save_strategy=steps", _not("trainer.save_strategy", "steps")),
        ("trainer.save_model=false saves nothing", _is("trainer.save_model", False)),
    ),
    "trainer.eval_max_batches": (
        ("in task=contrastive dataset.eval_samples bounds it", _is("task", "contrastive")),
    ),
    "trainer.torch_compile_backend": (
        ("trainer.torch_compile=false", _is("trainer.torch_compile", False)),
    ),
    "trainer.torch_compile_dynamic": (
        ("trainer.torch_compile=false", _is("trainer.torch_compile", False)),
    ),
    "dataset.min_length": (
        ("set dataset.filter_by_length=true too", _is("dataset.filter_by_length", False)),
    ),
    "dataset.pre_tokenize_output": (
        ("set dataset.pre_tokenize=true too", _is("dataset.pre_tokenize", False)),
    ),
    "dataset.name": (
        (
            "dataset.path is set",
            lambda config: (
                bool(config.dataset.path)
                and config.dataset.name != "local"
                and config.task != "contrastive"
            ),  # where the path is that of the tokens
        ),
    ),
    "dataset.text_column": (
        (
            "packaged corpora have a text column of their own",
            lambda config: not config.dataset.path and config.dataset.name in PACKAGED,
        ),
    ),
    "tokenizer.name": (
        ("tokenizer.path is set", _set("tokenizer.path")),
        ("tokenizer.train_vocab_size trains one", _set("tokenizer.train_vocab_size")),
    ),
    "datacollator.pad_to_multiple_of": (
        ("it is for padded batches of pretraining and GLUE", _is("task", "contrastive", "mteb")),
    ),
    "datacollator.max_length": (
        ("it is the length of packed rows", _is("datacollator.pack_sequences", False)),
    ),
    "model.from_hub": (
        ("it is for fine-tuning and mteb", _is("task", "pretraining", "contrastive")),
    ),
    "model.init_from": ((f"it is for task={', '.join(STARTED)}", _not("task", *STARTED)),),
    "model.rope_theta": (("model.rope=false", _is("model.rope", False)),),
    "model.base_scale": (("it is for model.ngpt=true", _is("model.ngpt", False)),),
}
"""Key -> reasons for which it has no effect, and when they hold."""
