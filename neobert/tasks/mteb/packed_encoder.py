"""Our encoder as mteb calls it: texts in batches in, an array of vectors out; and its identity.

mteb takes results of one name and revision for results of one model. So the revision is a
fingerprint of the weights and of whatever else changes the vectors.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Unpack

import numpy as np
from mteb import TaskMetadata
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder, get_prompt
from mteb.models.model_meta import ScoringFunction
from mteb.types import BatchedInput, EncodeKwargs, PromptType
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from neobert.model.encode import TextEncoder
from neobert.training.summary import num_parameters

ORGANISATION = "neobert"
"""mteb wants names of the form organisation/model."""


class PackedEncoder(AbsEncoder):
    """An encoder of ours: sorted by length, packed, pooled."""

    mteb_model_meta: ModelMeta

    def __init__(
        self, texts: TextEncoder, label: str, revision: str, prompts: Mapping[str, str]
    ) -> None:
        """``label`` is its name without the organisation."""
        self.model = texts
        self.model_prompts = dict(prompts)
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"{ORGANISATION}/{label}",
                "revision": revision,
                "n_parameters": num_parameters(texts.encoder),
                "max_tokens": texts.max_length,
                "embed_dim": texts.width,
                "framework": ["PyTorch"],
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **_: Unpack[EncodeKwargs],
    ) -> NDArray[np.float32]:
        """A row per text, in their order."""
        prefix = get_prompt(self.model_prompts, task_metadata, prompt_type) or ""
        texts = (text for batch in inputs for text in batch["text"])
        parts = [part.numpy() for _, part in self.model.encode_parts(texts, prefix)]
        return np.concatenate(parts) if parts else np.empty((0, self.model.width), np.float32)


def revision_of(
    model: nn.Module, pooling: str, max_length: int, bf16: bool, prompts: Mapping[str, str]
) -> str:
    """16 digits of the weights' SHA-256, then what else changes vectors."""
    parts = [weights_digest(model.state_dict())[:16], pooling, str(max_length)]
    if bf16:
        parts.append("bf16")
    if prompts:
        text = json.dumps(dict(prompts), sort_keys=True)
        parts.append(f"prompts_{hashlib.sha256(text.encode()).hexdigest()[:8]}")
    return "-".join(parts)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and numbers (as fp32), whatever order they come in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().float().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
