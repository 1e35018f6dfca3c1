"""Third-party models for mteb: whatever sentence-transformers loads, by our name and revision.

mteb itself would file every model from a folder under one name, so that two of them shared scores.
"""

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import is_sentence_transformer_model
from transformers.utils.logging import disable_progress_bar

from neobert.config.root import Config
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.tasks.mteb.packed_encoder import ORGANISATION, revision_of

log = get_logger(__name__)


class HubEncoder(SentenceTransformerEncoderWrapper):
    """A sentence-transformers model with a name, a revision, and bf16 if requested."""

    mteb_model_meta: ModelMeta

    def __init__(
        self,
        model: SentenceTransformer,
        label: str,
        revision: str,
        prompts: Mapping[str, str],
        bf16: bool,
    ) -> None:
        """``label`` is its name without the organisation."""
        model.prompts = {}  # they would be used beside ours
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mteb calls itself and others by deprecated names
            super().__init__(model, model_prompts=dict(prompts) or None)
        identity = {"name": f"{ORGANISATION}/{label}", "revision": revision}
        self.mteb_model_meta = self.mteb_model_meta.model_copy(update=identity)
        self.label, self.bf16 = label, bf16

    def encode(self, *inputs: Any, **settings: Any) -> NDArray[np.float32]:  # noqa: ANN401
        """A row per text, in their order; the arguments are mteb's."""
        device = self.model.device.type
        with torch.autocast(device, torch.bfloat16) if self.bf16 else nullcontext():
            vectors = super().encode(*inputs, **settings)
        return np.asarray(vectors, dtype=np.float32)


def load_hub_encoder(config: Config, device: str, bf16: bool) -> HubEncoder:
    """``model.name`` as sentence-transformers loads it; plain encoders get ``mteb_pooling``."""
    name = config.model.name
    if name is None:
        raise ConfigError("model.from_hub=true needs model.name: a folder or a hub id")
    disable_progress_bar()
    try:
        brings_pooling = is_sentence_transformer_model(name)
        model = SentenceTransformer(name, device=device)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.name={name} could not be loaded: {error}") from error
    pooling = "own"
    if brings_pooling:
        log.info("%s brings its own pooling: mteb_pooling does not change it", name)
    else:
        pooling = "mean" if config.mteb_pooling == "avg" else config.mteb_pooling
        # Its class has moved between versions of sentence-transformers; the instance is at hand.
        width = model[0].auto_model.config.hidden_size  # type: ignore[union-attr]
        model[1] = type(model[1])(width, pooling)
    longest = config.tokenizer.max_length
    max_length = config.mteb_max_length or min(longest, int(model.max_seq_length or longest))
    model.max_seq_length = max_length
    prompts = config.mteb_prompts or {key: text for key, text in model.prompts.items() if text}
    label = Path(name).resolve().name if Path(name).is_dir() else name.replace("/", "__")
    revision = revision_of(model, pooling, max_length, bf16, prompts)
    return HubEncoder(model, label, revision, prompts, bf16)
