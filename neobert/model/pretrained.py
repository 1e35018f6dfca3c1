"""Read trained weights: ``neobert.load(folder)``.

Understands a folder in the published layout (``config.json`` + ``model.safetensors``), a run of
ours, and one of its checkpoints (``config.yaml`` + ``model.safetensors``). Only safetensors are
read, and every weight must find its place.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from neobert.config.model import ModelConfig
from neobert.config.store import load_config_file
from neobert.console import get_logger
from neobert.model.heads import MaskedLM
from neobert.model.published import model_config, published_names

log = get_logger(__name__)

WEIGHTS = "model.safetensors"
EMBEDDING, DECODER, DECODER_BIAS = "model.encoder.weight", "decoder.weight", "decoder.bias"


def load(path: str | Path) -> MaskedLM:
    """The model in ``path``, in fp32 on the CPU, set to evaluation.

    Of a run, the newest checkpoint is taken. Raises ``ValueError`` that lists every weight that is
    missing, unexpected or of another shape.
    """
    folder = find_weights(Path(path))
    weights = published_names(load_file(folder / WEIGHTS))
    if EMBEDDING not in weights:
        raise ValueError(f"{folder / WEIGHTS} holds no NeoBERT: it has no {EMBEDDING}")
    config, pad_token_id = _read_config(folder)
    config = replace(config, **_facts(config, weights))
    model = MaskedLM(
        config, len(weights[EMBEDDING]), pad_token_id, decoder_bias=DECODER_BIAS in weights
    )
    _fill(model, weights, folder / WEIGHTS)
    return model.eval()


def find_weights(path: Path) -> Path:
    """The folder with the weights: ``path`` itself, or the newest checkpoint of the run there."""
    if (path / WEIGHTS).is_file():
        return path
    steps = [step for step in (path / "checkpoints").glob("*") if step.name.isdigit()]
    complete = [step for step in steps if (step / WEIGHTS).is_file()]
    if not complete:
        raise FileNotFoundError(
            f"{path} holds neither {WEIGHTS} nor checkpoints/<step>/{WEIGHTS}: name the folder of "
            "a run, of one of its checkpoints, or of an exported model"
        )
    return max(complete, key=lambda step: int(step.name))


def _read_config(folder: Path) -> tuple[ModelConfig, int]:
    """Settings of the model, and the id of padding."""
    if (folder / "config.json").is_file():
        published = json.loads((folder / "config.json").read_text())
        return model_config(published), int(published.get("pad_token_id") or 0)
    if (folder / "config.yaml").is_file():
        config = load_config_file(folder / "config.yaml").model
        information = folder / "tokenizer_info.json"
        if not information.is_file():
            return config, config.pad_token_id
        return config, int(json.loads(information.read_text())["pad_token_id"])
    raise FileNotFoundError(f"{folder} has {WEIGHTS} but neither config.json nor config.yaml")


def _facts(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, bool]:
    """What the weights know better than the configuration: whether the decoder is tied."""
    if DECODER not in weights or not config.tie_word_embeddings:
        return {}
    if torch.equal(weights[DECODER], weights[EMBEDDING]):
        return {}
    # transformers 5 left the published class untied although its configuration says otherwise.
    log.info("the decoder differs from the embedding, so it is loaded untied")
    return {"tie_word_embeddings": False}


def _fill(model: MaskedLM, weights: dict[str, Tensor], origin: Path) -> None:
    own = model.state_dict()
    if DECODER not in weights and model.decoder.weight is model.model.encoder.weight:
        weights = {**weights, DECODER: weights[EMBEDDING]}
    problems = [f"missing: {name}" for name in own if name not in weights]
    problems += [f"unexpected: {name}" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        raise ValueError(
            f"{origin} does not fit its configuration:\n- " + "\n- ".join(sorted(problems))
        )
    model.load_state_dict(weights)
