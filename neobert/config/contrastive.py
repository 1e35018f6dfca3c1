"""The ``contrastive`` section: training an encoder for embeddings."""

from dataclasses import dataclass, field
from typing import Any

from neobert.config.checks import above, at_least, one_of, require
from neobert.config.section import Section

POOLINGS = ("avg", "cls", "max")
LOSSES = ("simcse", "supcon")
PRETRAINING_STEPS = ("simcse", "mlm")


@dataclass(kw_only=True)
class ContrastiveConfig(Section):
    """Loss, pooling, pairs, and the weights that training starts from."""

    temperature: float = 0.05
    """What similarities are divided by, greater than 0."""

    pooling: str = "avg"
    """Sentence vector: mean of the tokens (``avg``), first token (``cls``), or ``max``."""

    loss_type: str = "simcse"
    """``simcse`` (InfoNCE) or ``supcon`` (several positives per anchor)."""

    hard_negative_weight: float = 0.0
    """Added to the logits of hard negatives: their log-weight."""

    hard_negatives: int = 1
    """Hard negatives of a pair that a step uses, sampled each time; 0: none."""

    micro_batch_size: int | None = None
    """Texts encoded at a time (GradCache): memory of so many, loss and gradients of the whole
    batch; ``null``: all at once."""

    query_prefix: str = ""
    """Put before every query."""

    document_prefix: str = ""
    """Put before every document (positives and negatives)."""

    pretraining_step: str = "simcse"
    """What a step against forgetting is: ``simcse`` (one text twice, under dropout) or ``mlm``."""

    pretraining_dataset: str = ""
    """Its texts: a packaged corpus (factbook), or a file or folder; empty: those of the pairs."""

    pretrained_checkpoint_dir: str | None = None
    """Start from this run; ``pretrained_checkpoint`` says which checkpoint."""

    pretrained_model_path: str | None = None
    """Start from this run, checkpoint, exported folder, or hub id."""

    allow_random_weights: bool = False
    """Start from random weights and ``model.*``."""

    sources: dict[str, Any] = field(default_factory=dict)
    """Own sources by name: ``{path: pairs.jsonl, query: question, positive: answer}`` and the like;
    docs/embeddings.md."""

    sources_dir: str | None = None
    """Folder with local copies of the table's sources, ``<sources_dir>/<NAME>``; what is not there
    comes from the hub."""

    eval_sts: str | None = None
    """File of scored pairs (sentence1, sentence2, score or label): Spearman while training."""

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        problems = above("contrastive.temperature", self.temperature, 0)
        problems += one_of("contrastive.pooling", self.pooling, POOLINGS)
        problems += one_of("contrastive.loss_type", self.loss_type, LOSSES)
        problems += one_of("contrastive.pretraining_step", self.pretraining_step, PRETRAINING_STEPS)
        problems += at_least("contrastive.hard_negatives", self.hard_negatives, 0)
        problems += at_least("contrastive.micro_batch_size", self.micro_batch_size, 1)
        problems += require(
            self.pretrained_checkpoint_dir is None or self.pretrained_model_path is None,
            "contrastive.pretrained_checkpoint_dir and contrastive.pretrained_model_path are both "
            "set: keep the one to start from",
        )
        return problems + at_least("contrastive.hard_negative_weight", self.hard_negative_weight, 0)
