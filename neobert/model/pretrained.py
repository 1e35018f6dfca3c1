"""Read trained weights: ``neobert.load(folder)``.

Understands a folder in the published layout (``config.json`` + ``model.safetensors``), a run of
ours or of the reference implementation, one of its checkpoints (``config.yaml`` +
``model.safetensors``, or the pieces of DeepSpeed ZeRO), and an id of the Hugging Face Hub. No code
in files is run, and every weight must find its place. Whatever is wrong is a
:class:`PretrainedError`.
"""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from neobert.config.model import ModelConfig
from neobert.console import get_logger
from neobert.model.attention import SelfAttention
from neobert.model.encoder import Encoder
from neobert.model.heads import ACTIVATIONS, ClassifierSettings, MaskedLM, SequenceClassifier
from neobert.model.published import model_config, published_names
from neobert.model.weight_files import (
    NoWeightsError,
    PretrainedError,
    has_weights,
    read_json,
    read_text,
    read_weights,
    what_is_there,
)
from neobert.model.zero import read_zero, zero_folder

log = get_logger(__name__)

EMBEDDING, DECODER, DECODER_BIAS = "model.encoder.weight", "decoder.weight", "decoder.bias"
ENCODER = "model."
LOGIT_SCALE = "sz"
HEADS = (LOGIT_SCALE, "decoder.", "dense.", "classifier.", "qa_outputs.")
OF_THE_MACHINE = ("name", "from_hub", "attn_backend", "kernel_backend")
"""Settings of the run that made the weights which are none of whoever loads them."""
BLOCK = re.compile(r"model\.transformer_encoder\.(\d+)\.")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_FILES = ("*.json", "*.safetensors", "tokenizer*", "vocab*", "merges.txt")


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Weights and what describes them, before a model is made of them."""

    folder: Path
    config: ModelConfig
    pad_token_id: int
    weights: dict[str, Tensor]
    """By the names of the published layout."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return len(self.weights[EMBEDDING])


def load(path: str | Path) -> MaskedLM:
    """The model in ``path``, in fp32 on the CPU, set to evaluation.

    Of a run, the newest checkpoint is taken. Raises :class:`PretrainedError`, a ``ValueError`` that
    lists every weight that is missing, unexpected or of another shape.
    """
    found = read_pretrained(path)
    config = replace(found.config, tie_word_embeddings=_tied(found.config, found.weights))
    weights = found.weights
    with torch.device("meta"):
        model = MaskedLM(
            config, found.vocab_size, found.pad_token_id, decoder_bias=DECODER_BIAS in weights
        )
    tied = config.tie_word_embeddings and not config.ngpt
    if DECODER not in weights and tied:
        weights = {**weights, DECODER: weights[EMBEDDING]}
    if config.ngpt and LOGIT_SCALE not in weights:
        # The reference has none, which is the same as its initial value.
        weights = {**weights, LOGIT_SCALE: torch.full((found.vocab_size,), config.base_scale)}
    _fill(model, weights, found.folder)
    if tied:
        model.decoder.weight = model.model.encoder.weight
    return model.eval()


def load_encoder(path: str | Path) -> Encoder:
    """The encoder in ``path``; heads that stand on it there are left out, and nothing else is."""
    found = read_pretrained(path)
    with torch.device("meta"):
        encoder = Encoder(found.config, found.vocab_size, found.pad_token_id)
    weights = {
        name.removeprefix(ENCODER): tensor
        for name, tensor in found.weights.items()
        if not name.startswith(HEADS)
    }
    _fill(encoder, weights, found.folder)
    return encoder.eval()


def load_classifier(path: str | Path, dropout: float = 0.0) -> SequenceClassifier:
    """The classifier in ``path``, its number of labels that of the weights."""
    found = read_pretrained(path)
    if "classifier.weight" not in found.weights:
        raise PretrainedError(f"{found.folder} holds no classifier")
    settings = replace(
        _classifier_settings(found.folder),
        dropout=dropout,
        init_std=found.config.classifier_init_range,
    )
    with torch.device("meta"):
        encoder = Encoder(found.config, found.vocab_size, found.pad_token_id)
        model = SequenceClassifier(encoder, len(found.weights["classifier.weight"]), settings)
    _fill(model, found.weights, found.folder)
    return model.eval()


def _classifier_settings(folder: Path) -> ClassifierSettings:
    """Activation and pooling of the head, where ``config.json`` or the run's settings say so."""
    file = folder / "config.json"
    values = read_json(file) if file.is_file() else _sections(folder / "config.yaml").get("glue")
    values = values if isinstance(values, dict) else {}
    names = {"activation": ACTIVATIONS.keys() | {"none"}, "pooling": {"cls", "avg"}}
    chosen: dict[str, str] = {}
    for name, allowed in names.items():
        value = values.get(f"classifier_{name}")
        if value is None:
            continue
        if value not in allowed:
            raise PretrainedError(
                f"{folder}: classifier_{name} is {value!r}, not one of {', '.join(sorted(allowed))}"
            )
        chosen[name] = str(value)
    return replace(ClassifierSettings(), **chosen)  # type: ignore[arg-type]


def read_pretrained(path: str | Path) -> Pretrained:
    """Weights and settings of a folder or hub id; checked against each other by the loaders."""
    folder = find_weights(path)
    config, pad_token_id = _read_config(folder)
    stored = _read_weights(folder)
    try:
        weights = published_names(stored)
    except (RuntimeError, ValueError) as error:  # gates that cannot be taken apart
        raise PretrainedError(f"{folder}: {error}") from error
    if EMBEDDING not in weights or weights[EMBEDDING].dim() != 2:
        raise PretrainedError(f"{folder} holds no NeoBERT: it has no table {EMBEDDING}")
    _check_sizes(config, weights, folder)
    if not 0 <= pad_token_id < len(weights[EMBEDDING]):
        raise PretrainedError(f"{folder}: pad_token_id {pad_token_id} is no row of the embedding")
    return Pretrained(folder, config, pad_token_id, {k: v.float() for k, v in weights.items()})


def find_weights(path: str | Path) -> Path:
    """The folder with the weights: ``path`` itself, or the newest checkpoint of the run there.

    An id of the Hub is fetched into its cache.
    """
    path = _on_disk(path)
    if _is_checkpoint(path):
        return path
    steps = [step for step in (path / "checkpoints").glob("*") if step.name.isdigit()]
    complete = [step for step in steps if _is_checkpoint(step)]
    if complete:
        return max(complete, key=lambda step: int(step.name))
    why = what_is_there(path) if path.is_dir() else "there is no such folder"
    raise NoWeightsError(
        f"{path} holds neither model.safetensors nor checkpoints/<step>/model.safetensors "
        f"({why}): name the folder of a run, of one of its checkpoints, of an "
        "exported model, or an id of the Hugging Face Hub"
    )


def _is_checkpoint(folder: Path) -> bool:
    return has_weights(folder) or zero_folder(folder) is not None


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Of safetensors if there are any, else of the pieces of DeepSpeed."""
    pieces = None if has_weights(folder) else zero_folder(folder)
    return read_weights(folder) if pieces is None else read_zero(pieces)


def _on_disk(path: str | Path) -> Path:
    """A folder, fetched from the Hub if ``path`` is no folder but looks like an id there."""
    if Path(path).exists() or not HUB_ID.fullmatch(str(path)):
        return Path(path)
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    log.info("%s is no folder here; fetching it from the Hugging Face Hub (data only)", path)
    try:
        return Path(snapshot_download(str(path), allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise NoWeightsError(
            f"{path} is no folder, and the Hugging Face Hub does not give it: {error}"
        ) from error


def _read_config(folder: Path) -> tuple[ModelConfig, int]:
    """Settings of the model, and the id of padding."""
    if (folder / "config.json").is_file():
        published = read_json(folder / "config.json")
        return _made(published, folder), _integer(published.get("pad_token_id") or 0, folder)
    pieces = zero_folder(folder)
    # DeepSpeed's pieces may lie with it one folder further down; a run of the reference keeps it
    # above.
    for parent in (folder, *([pieces] if pieces else []), *folder.parents[:2]):
        if (parent / "config.yaml").is_file():
            section = _model_section(parent / "config.yaml")
            pad_token_id = section.get("pad_token_id") or 0
            information = folder / "tokenizer_info.json"
            if information.is_file():
                pad_token_id = read_json(information).get("pad_token_id", pad_token_id)
            return _made(section, folder), _integer(pad_token_id, folder)
    raise PretrainedError(f"{folder} has weights but neither config.json nor config.yaml")


def _model_section(path: Path) -> dict[str, object]:
    section = _sections(path).get("model")
    if not isinstance(section, dict):
        raise PretrainedError(f"{path} has no section `model`")
    return {str(name): value for name, value in section.items()}


def _sections(path: Path) -> dict[str, object]:
    """The sections of a run's settings; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise PretrainedError(f"{path} is not YAML: {error}") from error
    return {
        str(name): section for name, section in (values if isinstance(values, dict) else {}).items()
    }


def _made(values: dict[str, object], folder: Path) -> ModelConfig:
    """Settings of these values, each of its field's type."""
    types = {field.name: type(field.default) for field in fields(ModelConfig)}
    made = model_config({name: v for name, v in values.items() if name not in OF_THE_MACHINE})
    numbers = {}
    for name, kind in types.items():
        value = getattr(made, name)
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            numbers[name] = value = _float(value, name, folder)  # YAML reads 1e-5 as a text
        if kind in (bool, int, float, str) and type(value) is not kind:
            raise PretrainedError(f"{folder}: {name} is {value!r}, not a {kind.__name__}")
    return replace(made, **numbers)  # type: ignore[arg-type]


def _float(value: int | str, name: str, folder: Path) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError) as error:
        raise PretrainedError(f"{folder}: {name} is {value!r}, not a number") from error


def _integer(value: object, folder: Path) -> int:
    if type(value) is not int:
        raise PretrainedError(f"{folder}: pad_token_id is {value!r}, not an integer")
    return value


def _check_sizes(config: ModelConfig, weights: dict[str, Tensor], folder: Path) -> None:
    """Refuse sizes that no model can have, and those that only the weights can contradict."""
    sizes = ("hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    problems = [
        f"{name} is {getattr(config, name)}"
        for name in sizes
        if not 1 <= getattr(config, name) < 2**24
    ]
    blocks = {found[1] for name in weights if (found := BLOCK.match(name))}
    if len(blocks) != config.num_hidden_layers:
        problems.append(f"num_hidden_layers is {config.num_hidden_layers}, weights: {len(blocks)}")
    if not problems and config.hidden_size % config.num_attention_heads:
        problems.append(f"hidden_size {config.hidden_size} / {config.num_attention_heads} heads")
    elif not problems and config.rope and config.hidden_size // config.num_attention_heads % 2:
        problems.append("an odd width of the heads, which rope=true cannot turn")
    if config.hidden_act.lower() not in ("swiglu", "gelu"):
        problems.append(f"hidden_act is {config.hidden_act!r}")
    if problems:
        raise PretrainedError(f"{folder}: impossible settings: " + "; ".join(problems))


def _tied(config: ModelConfig, weights: dict[str, Tensor]) -> bool:
    """What the weights know better than the configuration: whether the decoder is tied."""
    if config.ngpt or DECODER not in weights or not config.tie_word_embeddings:
        return config.tie_word_embeddings
    if torch.equal(weights[DECODER], weights[EMBEDDING]):
        return True
    # transformers 5 left the published class untied although its configuration says otherwise.
    log.info("the decoder differs from the embedding, so it is loaded untied")
    return False


def _fill(model: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """Put ``weights`` into a model on the meta device: all of them, without a copy."""
    own = model.state_dict()
    problems = [f"missing: {name}" for name in own if name not in weights]
    problems += [f"unexpected: {name}" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        listed = "\n- ".join(sorted(problems)[:20])
        more = f"\n- and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise PretrainedError(f"{folder} does not fit its settings:\n- {listed}{more}")
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        if isinstance(module, SelfAttention):  # what it records is no weight, so still on `meta`
            module.max_logits = torch.full((module.num_heads,), -torch.inf)
    assert not any(buffer.is_meta for buffer in model.buffers())
