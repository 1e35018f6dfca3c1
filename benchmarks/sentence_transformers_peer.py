"""Train an exported encoder by sentence-transformers' own trainer: what benchmarks compare with.

Loss, optimizer and schedule are what its documentation would have a user type; lengths and rates
are those of a contrastive run of ours.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch.utils.data import SequentialSampler

POOLINGS = {"avg": "mean", "cls": "cls", "max": "max"}
"""Our names of poolings → those of sentence-transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How to train; the defaults are those of ``task=contrastive``."""

    batch: int
    """Pairs of a step."""

    steps: int
    warmup: int
    """Steps before the full learning rate, from which a cosine falls to ``floor`` of it."""

    max_length: int
    """Tokens of a text, what is longer is cut."""

    lr: float = 5e-5
    floor: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 1.0
    """Largest norm of the gradient."""

    temperature: float = 0.05
    pooling: str = "avg"
    attention: str = "sdpa"
    """``sdpa``, with which an exported model leaves padding out; ``eager`` computes it."""


def load(folder: Path, how: Training) -> SentenceTransformer:
    """The encoder in an exported folder, with pooling over it."""
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    trusted = {"trust_remote_code": True}
    transformer = Transformer(
        str(folder),
        max_seq_length=how.max_length,
        model_kwargs={**trusted, "attn_implementation": how.attention},
        config_kwargs=trusted,
        processor_kwargs=trusted,
    )
    modules = [transformer, Pooling(width, POOLINGS[how.pooling])]
    return SentenceTransformer(modules=modules, device="cpu")


def train(folder: Path, pairs: Dataset, how: Training) -> SentenceTransformer:
    """Train the encoder in ``folder`` on ``pairs`` (query, positive), in their order."""
    model = load(folder, how)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=how.batch,
            max_steps=how.steps,
            learning_rate=how.lr,
            weight_decay=how.weight_decay,
            adam_beta1=how.betas[0],
            adam_beta2=how.betas[1],
            adam_epsilon=how.eps,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": how.floor},
            warmup_steps=how.warmup,
            max_grad_norm=how.clip,
            batch_sampler=_in_order,
            save_strategy="no",
            logging_steps=max(1, how.steps // 10),
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        loss = MultipleNegativesRankingLoss(model, scale=1 / how.temperature)
        SentenceTransformerTrainer(model, arguments, pairs, loss=loss).train()
    return model


def _in_order(dataset: Dataset, **settings: object) -> DefaultBatchSampler:
    """Full batches of neighbours: what the order of the pairs says, nothing shuffled."""
    known: Mapping[str, object] = {**settings, "drop_last": True}
    return DefaultBatchSampler(SequentialSampler(dataset), **known)  # type: ignore[arg-type]
