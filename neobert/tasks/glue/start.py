"""What a fine-tuning run starts from: which weights, with their architecture and tokenizer.

Decided from the ``glue`` section before any data is read. Architecture and tokenizer are those of
the weights; a setting that says otherwise is an error.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from neobert.config.checks import ConfigError
from neobert.config.compose import compose_config
from neobert.config.model import ModelConfig
from neobert.config.root import Config
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.data.tokenizer import load_tokenizer
from neobert.files import sha256
from neobert.model.pretrained import find_weights, read_pretrained
from neobert.model.weight_files import WEIGHTS, PretrainedError, has_weights, read_json
from neobert.tasks.glue.tasks import TASKS
from neobert.tasks.glue.transfer import source_run
from neobert.training.checkpoint import MANIFEST, damages
from neobert.training.select import best_step

ARCHITECTURE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "vocab_size",
    "rope",
    "rope_theta",
    "rms_norm",
    "hidden_act",
    "norm_eps",
    "ngpt",
    "base_scale",
)
"""Settings that belong to the weights. The others are the run's own: dropout, backends."""

INFORMATION = "tokenizer_info.json"
"""File of a checkpoint; under ``weights`` it tells what the run started from."""

FROM_NOTHING = (
    "glue starts from no weights: set glue.pretrained_model_path=RUN_OR_FOLDER, or "
    "glue.pretrained_checkpoint_dir=RUN, or model.from_hub=true with model.name, or "
    "glue.allow_random_weights=true to learn from a random start"
)


@dataclass(frozen=True, slots=True)
class Start:
    """Where the weights come from, and what is known before they are read."""

    kind: str
    """``random``, ``encoder``, ``transfer`` (encoder and dense layer), ``hub``, or ``resumed``
    (the checkpoint's, which the Trainer reads)."""

    tokenizer: PreTrainedTokenizerFast | None
    """``None`` for models of the hub, which bring their own."""

    model: ModelConfig
    vocab_size: int
    pad_token_id: int
    folder: Path | None = None
    """The checkpoint or published folder to read; ``None`` where there is nothing to read."""

    record: dict[str, object] = field(default_factory=dict)
    """For ``summary.json``: which weights these are."""


def find_start(config: Config, resume: Path | None = None) -> Start:
    """What ``config`` starts from. Raises ``ConfigError`` where it cannot.

    A run that goes on at the checkpoint ``resume`` has all it needs there. Models of the hub still
    need their folder, which alone knows their architecture.
    """
    glue = config.glue
    try:
        record = None if resume is None else read_json(resume / INFORMATION).get("weights")
        if resume is not None and isinstance(record, dict) and record.get("kind") != "hub":
            return _resumed(config, resume, record)
        if glue.transfer_from_task:
            return _transfer(config)
        if config.model.from_hub:
            return _hub(config)
        if glue.pretrained_checkpoint_dir:
            folder = chosen_checkpoint(
                Path(glue.pretrained_checkpoint_dir).expanduser(), _selector(config)
            )
            return _encoder(config, "encoder", folder, {})
        if glue.pretrained_model_path:
            return _from_path(config, Path(glue.pretrained_model_path).expanduser())
    except PretrainedError as error:
        raise ConfigError(*[f"glue: {line}" for line in str(error).splitlines()]) from error
    if glue.allow_random_weights:
        info = load_tokenizer(config.tokenizer)
        return Start(
            "random",
            info.tokenizer,
            config.model,
            info.vocab_size,
            info.pad_token_id,
            record={"kind": "random"},
        )
    raise ConfigError(FROM_NOTHING)


def chosen_checkpoint(run: Path, selector: str) -> Path:
    """The checkpoint of ``run`` that ``selector`` names: ``latest``, ``best``, or a step.

    ``run`` may also be its folder of checkpoints, or one checkpoint.
    """
    key = "glue.pretrained_checkpoint_dir"
    if not run.is_dir():
        raise ConfigError(f"{key}={run}: there is no such folder")
    if has_weights(run) and selector == "latest":
        return run
    places = [run / "checkpoints", run / "model_checkpoints", run]
    place = next((one for one in places if one.is_dir() and _steps(one)), None)
    if place is None:
        raise ConfigError(f"{key}={run}: has no checkpoints/<step>/model.safetensors")
    steps = _steps(place)
    wanted = str(steps[-1]) if selector == "latest" else selector
    if selector == "best":
        wanted = str(best_step(place / str(steps[-1])))
    if not wanted.isdigit() or int(wanted) not in steps:
        there = ", ".join(map(str, steps))
        raise ConfigError(
            f"glue.pretrained_checkpoint={selector}: {run} has the steps {there}; "
            "latest and best are allowed too"
        )
    return place / wanted


def _selector(config: Config) -> str:
    own = config.glue.pretrained_checkpoint
    return str(config.pretrained_checkpoint if own is None else own)


def _steps(place: Path) -> list[int]:
    found = [one for one in place.iterdir() if one.name.isdigit() and has_weights(one)]
    return sorted(int(one.name) for one in found)


def _from_path(config: Config, path: Path) -> Start:
    """A run, a checkpoint, a published folder; a ``config.yaml`` stands for its folder.

    Only of a ``config.yaml`` may the weights be left aside (``allow_random_weights``).
    """
    if path.suffix not in (".yaml", ".yml"):
        given = config.glue.pretrained_model_path or ""  # may be an id of the hub
        folder = find_weights(path if path.exists() else given)
        return _encoder(config, "encoder", folder, {})
    if not path.is_file():
        raise ConfigError(f"glue.pretrained_model_path={path}: there is no such file")
    folder = find_weights(path.parent)
    if not config.glue.allow_random_weights:
        return _encoder(config, "encoder", folder, {})
    start = _encoder(config, "random", folder, {})
    return replace(start, folder=None, record={"kind": "random", "architecture": str(path)})


def _resumed(config: Config, checkpoint: Path, record: dict[str, object]) -> Start:
    """The run's own checkpoint; what it once started from may have moved, or be another by now."""
    config = replace(config, tokenizer=replace(config.tokenizer, path=None))
    return replace(_encoder(config, "resumed", checkpoint, {}), folder=None, record=record)


def _transfer(config: Config) -> Start:
    task = config.glue.task_name
    source = TASKS[task].start_from if task in TASKS else None
    if source is None:
        able = ", ".join(name for name, row in TASKS.items() if row.start_from)
        raise ConfigError(
            f"glue.transfer_from_task: {task} has no usual source; those that have: {able}"
        )
    run = source_run(config, source)
    return _encoder(
        config, "transfer", run.checkpoint, {"task": source, "score": run.score, "run": run.folder}
    )


def _encoder(config: Config, kind: str, folder: Path, more: dict[str, object]) -> Start:
    if (folder / MANIFEST).is_file() and (problems := damages(folder)):
        raise ConfigError(f"{folder} is damaged: {'; '.join(problems)}")
    found = read_pretrained(folder)
    _refuse_contradictions(config, found.config, found.vocab_size, folder)
    tokenizer = _tokenizer(config, folder)
    largest = max(tokenizer.get_vocab().values())
    if largest >= found.vocab_size:
        raise ConfigError(
            f"{folder}: its embedding has {found.vocab_size} rows, but the tokenizer has ids "
            f"up to {largest}: they do not belong together"
        )
    return Start(
        kind,
        tokenizer,
        replace(
            found.config,
            dropout_prob=config.model.dropout_prob,
            classifier_init_range=config.model.classifier_init_range,
            attn_backend=config.model.attn_backend,
            kernel_backend=config.model.kernel_backend,
            vocab_size=found.vocab_size,
            pad_token_id=found.pad_token_id,
        ),
        found.vocab_size,
        found.pad_token_id,
        folder,
        {"kind": kind, "folder": str(folder.resolve()), "sha256": _digest(folder), **more},
    )


def _refuse_contradictions(
    config: Config, trained: ModelConfig, vocab_size: int, folder: Path
) -> None:
    """An architecture that was asked for must be the one of the weights.

    Asked for is what differs from the settings that a bare ``task=glue`` has.
    """
    defaults = compose_config(["task=glue"]).model
    theirs = replace(trained, vocab_size=vocab_size)
    problems = [
        f"model.{key}={getattr(config.model, key)} contradicts {folder}, whose weights have "
        f"{getattr(theirs, key)}: leave it out, the architecture comes with the weights"
        for key in ARCHITECTURE
        if getattr(config.model, key) != getattr(defaults, key)
        and getattr(config.model, key) != getattr(theirs, key)
    ]
    longest = config.glue.max_seq_length
    if not trained.rope and longest > trained.max_position_embeddings:
        problems.append(
            f"glue.max_seq_length={longest} is longer than the {trained.max_position_embeddings} "
            f"positions that {folder} has learned"
        )
    if problems:
        raise ConfigError(*problems)


def _tokenizer(config: Config, folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer beside the weights; ``tokenizer.path`` where there is none."""
    try:
        saved = saved_tokenizer(folder)
    except ValueError as error:
        if config.tokenizer.path is None:
            raise ConfigError(f"{error}; or set tokenizer.path") from error
        return load_tokenizer(config.tokenizer).tokenizer
    if config.tokenizer.path is not None:
        given = load_tokenizer(config.tokenizer).tokenizer
        if given.get_vocab() != saved.get_vocab():
            raise ConfigError(
                f"tokenizer.path={config.tokenizer.path} has another vocabulary than the "
                f"tokenizer of {folder}: leave it out"
            )
    return saved


def _hub(config: Config) -> Start:
    if config.model.name is None:
        raise ConfigError("model.from_hub=true needs model.name: a folder or an id of the hub")
    return Start("hub", None, config.model, 0, 0, record={"kind": "hub", "name": config.model.name})


def _digest(folder: Path) -> str | None:
    path = folder / WEIGHTS
    return sha256(path) if path.is_file() else None  # None: in shards
