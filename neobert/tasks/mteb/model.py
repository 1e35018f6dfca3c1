"""Load what is evaluated: a run, a checkpoint, a published folder, a hub id; ours or another's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from transformers import PreTrainedTokenizerFast

from neobert.config.checks import ConfigError
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.data.tokenizer import load_tokenizer
from neobert.model.encode import EncodeSettings, TextEncoder
from neobert.model.encoder import Encoder
from neobert.model.pretrained import PretrainedError, find_weights, load_encoder
from neobert.model.weight_files import read_json
from neobert.tasks.mteb.encoder import PackedEncoder, describe, revision_of
from neobert.tasks.mteb.hub import HubEncoder, load_hub_encoder
from neobert.training.precision import resolve_precision
from neobert.training.run_folder import RunFolder
from neobert.training.select import select_checkpoint
from neobert.training.trainer import runs_on_cuda

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A model that mteb can call, and where its results belong."""

    encoder: PackedEncoder | HubEncoder
    label: str
    """Folder of its results: the step of the run in ``trainer.output_dir``, or a name."""

    source: str
    """Where the weights are from."""


@dataclass(frozen=True, slots=True)
class Trained:
    """How a model was trained to make vectors, as far as its folder says."""

    pooling: str | None
    prompts: Mapping[str, str]


def load_evaluated(config: Config) -> Evaluated:
    """The model that ``config`` names. Raises ``ConfigError`` if it cannot be used."""
    on_cuda = runs_on_cuda(config.trainer)
    bf16 = resolve_precision(config.trainer, on_cuda).lightning.startswith("bf16")
    if config.model.from_hub:
        hub = load_hub_encoder(config, "cuda" if on_cuda else "cpu", bf16)
        return Evaluated(hub, hub.label, str(config.model.name))
    folder, label = _folder(config)
    try:
        encoder = load_encoder(folder)
    except PretrainedError as error:
        raise ConfigError(f"{_key(config)}: {error}") from error
    trained = trained_for(folder)
    prompts = config.mteb_prompts or trained.prompts
    max_length = _max_length(config, encoder)
    settings = EncodeSettings(
        pooling=_pooling(config, trained),
        max_length=max_length,
        tokens_per_batch=config.mteb_batch_size * max_length,
        bf16=bf16,
    )
    revision = revision_of(encoder, settings.pooling, max_length, bf16, prompts)
    width = encoder.config.hidden_size
    meta = describe(label_of_run(folder), revision, encoder, width, max_length)
    tokenizer = _tokenizer(folder, config)
    texts = TextEncoder(encoder.to("cuda" if on_cuda else "cpu"), tokenizer, settings)
    return Evaluated(PackedEncoder(texts, meta, prompts), label, str(folder))


def trained_for(folder: Path) -> Trained:
    """Pooling and prompts in a contrastive run's ``config.yaml`` or a published folder's files."""
    if (folder / "config.yaml").is_file():
        values = yaml.safe_load((folder / "config.yaml").read_text())
        section = values.get("contrastive") if isinstance(values, dict) else None
        if not isinstance(section, dict) or values.get("task") != "contrastive":
            return Trained(None, {})
        kinds = ("query", "document")
        prefixes = {kind: str(section.get(f"{kind}_prefix") or "") for kind in kinds}
        return Trained(section.get("pooling"), _given(prefixes))
    pooling, prompts = None, dict[str, str]()
    if (folder / "1_Pooling" / "config.json").is_file():
        modes = read_json(folder / "1_Pooling" / "config.json")
        names = {"avg": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
        pooling = next((way for way in names if modes.get(f"pooling_mode_{names[way]}")), None)
    if (folder / "config_sentence_transformers.json").is_file():
        found = read_json(folder / "config_sentence_transformers.json").get("prompts")
        prompts = {str(name): str(text) for name, text in dict(found or {}).items()}  # type: ignore[call-overload]
    return Trained(pooling, _given(prompts))


def label_of_run(folder: Path) -> str:
    """``quickstart-830`` for ``…/quickstart/checkpoints/830``, else the folder's name."""
    folder = folder.resolve()
    if folder.parent.name == "checkpoints":
        return f"{folder.parent.parent.name}-{folder.name}"
    return folder.name


def _given(prompts: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in prompts.items() if text}


def _key(config: Config) -> str:
    return "mteb_model" if config.mteb_model else "trainer.output_dir"


def _folder(config: Config) -> tuple[Path, str]:
    """Where the weights are, and the label of the results."""
    key, name = _key(config), config.mteb_model or config.trainer.output_dir
    run = RunFolder(Path(name))
    if run.checkpoints.is_dir():
        folder = select_checkpoint(run.path, config.pretrained_checkpoint, key)
        return folder, folder.name if key == "trainer.output_dir" else label_of_run(folder)
    if key == "trainer.output_dir":
        raise ConfigError(
            f"trainer.output_dir={name} is no run with checkpoints: name such a one, or with "
            "mteb_model a run, a checkpoint, a published folder or a hub id (a model of "
            "others: model.from_hub=true model.name=…)"
        )
    try:
        folder = find_weights(name)
    except PretrainedError as error:
        raise ConfigError(f"mteb_model={name}: {error}") from error
    return folder, label_of_run(folder) if Path(name).exists() else name.replace("/", "__")


def _pooling(config: Config, trained: Trained) -> str:
    """``mteb_pooling``, where ``mean`` and ``avg`` are one; a doubt is told."""
    pooling = "avg" if config.mteb_pooling == "mean" else config.mteb_pooling
    if trained.pooling not in (None, pooling):
        log.warning(
            "the model was trained with %s pooling and is evaluated with mteb_pooling=%s",
            trained.pooling,
            config.mteb_pooling,
        )
    return pooling


def _max_length(config: Config, encoder: Encoder) -> int:
    trained = encoder.config.max_position_embeddings
    wanted = config.mteb_max_length or min(config.tokenizer.max_length, trained)
    if not encoder.config.rope and wanted > trained:
        raise ConfigError(
            f"mteb_max_length={wanted}: the model has learned positions for {trained} tokens"
        )
    return wanted


def _tokenizer(folder: Path, config: Config) -> PreTrainedTokenizerFast:
    """The one beside the weights; ``tokenizer.*`` for weights that came without."""
    if any((place / "tokenizer.json").is_file() for place in (folder / "tokenizer", folder)):
        try:
            return saved_tokenizer(folder)
        except ValueError as error:
            raise ConfigError(f"{_key(config)}: {error}") from error
    if config.tokenizer.train_vocab_size is not None:
        raise ConfigError(
            f"{_key(config)}: {folder} has no tokenizer beside it: name one by "
            "tokenizer.path=… tokenizer.train_vocab_size=null"
        )
    log.info("%s has no tokenizer beside it: taking tokenizer.path or tokenizer.name", folder)
    return load_tokenizer(config.tokenizer).tokenizer
