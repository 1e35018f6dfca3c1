"""Load what is evaluated: a run, a checkpoint, a published folder, a hub id; ours or another's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neobert.config.root import Config
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.files import user_path
from neobert.model.encode import EncodeSettings, TextEncoder
from neobert.model.encoder import Encoder
from neobert.model.pretrained import run_settings
from neobert.model.weight_files import read_json_object
from neobert.tasks.mteb.hub_encoder import HubEncoder, load_hub_encoder
from neobert.tasks.mteb.packed_encoder import PackedEncoder, revision_of
from neobert.training.encoder_start import of_length
from neobert.training.precision import resolve_precision
from neobert.training.run_folder import RunFolder, label_of_run
from neobert.training.start import Pretrained, open_weights
from neobert.training.strategy import runs_on_cuda

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A model that mteb can call, and where its results belong."""

    encoder: PackedEncoder | HubEncoder
    label: str
    """Folder of its results: the step of the run in ``trainer.output_dir``, or a name."""

    source: str
    """Where the weights are from."""


def load_evaluated(config: Config) -> Evaluated:
    """The model that ``config`` names. Raises ``ConfigError`` if it cannot be used."""
    on_cuda = runs_on_cuda(config.trainer)
    bf16 = resolve_precision(config.trainer, on_cuda).lightning.startswith("bf16")
    if config.model.from_hub:
        hub = load_hub_encoder(config, "cuda" if on_cuda else "cpu", bf16)
        return Evaluated(hub, hub.label, str(config.model.name))
    weights, label = _open(config)
    encoder, folder = weights.encoder().eval(), weights.folder
    trained_pooling, trained_prompts = embedding_use(folder)
    prompts = config.mteb_prompts or trained_prompts
    max_length = _max_length(config, encoder)
    settings = EncodeSettings(
        pooling=_pooling(config, trained_pooling),
        max_length=max_length,
        tokens_per_batch=config.mteb_batch_size * max_length,
        bf16=bf16,
    )
    revision = revision_of(encoder, settings.pooling, max_length, bf16, prompts)
    tokenizer = weights.tokenizer_or(config.tokenizer)
    texts = TextEncoder(encoder.to("cuda" if on_cuda else "cpu"), tokenizer, settings)
    packed = PackedEncoder(texts, label_of_run(folder), revision, prompts)
    return Evaluated(packed, label, str(folder))


def embedding_use(folder: Path) -> tuple[str | None, dict[str, str]]:
    """The pooling and the prompts that a model was trained with, as far as its folder says.

    In a contrastive run's ``config.yaml`` or a published folder's files.
    """
    if (folder / "config.yaml").is_file():
        settings = run_settings(folder / "config.yaml")
        section = settings.get("contrastive")
        if not isinstance(section, dict) or settings.get("task") != "contrastive":
            return None, {}
        prefixes = {kind: section.get(f"{kind}_prefix") for kind in ("query", "document")}
        return section.get("pooling"), _given(prefixes)
    modes = _optional(folder / "1_Pooling" / "config.json")
    names = {"avg": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    pooling = next((way for way in names if modes.get(f"pooling_mode_{names[way]}")), None)
    prompts = _optional(folder / "config_sentence_transformers.json").get("prompts")
    return pooling, _given(prompts if isinstance(prompts, dict) else {})


def _optional(file: Path) -> dict[str, object]:
    return read_json_object(file) if file.is_file() else {}


def _given(prompts: Mapping[str, object]) -> dict[str, str]:
    return {str(name): str(text) for name, text in prompts.items() if text}


def _open(config: Config) -> tuple[Pretrained, str]:
    """The weights, and the label of their results."""
    if config.mteb_model is None:
        run = RunFolder(Path(config.trainer.output_dir))
        if not run.checkpoints.is_dir():
            raise ConfigError(
                f"trainer.output_dir={run.path} is no run with checkpoints: name such a one, or "
                "with mteb_model a run, a checkpoint, a published folder or a hub id (for models "
                "of other kinds: model.from_hub=true model.name=ID)"
            )
        weights = open_weights(run.path, config.pretrained_checkpoint, "trainer.output_dir")
        return weights, weights.folder.name
    name = config.mteb_model
    weights = open_weights(name, config.pretrained_checkpoint, "mteb_model")
    is_local = user_path(name).exists()
    return weights, label_of_run(weights.folder) if is_local else name.replace("/", "__")


def _pooling(config: Config, trained: str | None) -> str:
    """``mteb_pooling``, where ``mean`` and ``avg`` are one; a difference to training is logged."""
    pooling = "avg" if config.mteb_pooling == "mean" else config.mteb_pooling
    if trained not in (None, pooling):
        log.warning(
            "the model was trained with %s pooling and is evaluated with mteb_pooling=%s",
            trained,
            config.mteb_pooling,
        )
    return pooling


def _max_length(config: Config, encoder: Encoder) -> int:
    trained = encoder.config.max_position_embeddings
    length = config.mteb_max_length or min(config.tokenizer.max_length, trained)
    of_length(encoder.config, "mteb_max_length", length)
    return length
