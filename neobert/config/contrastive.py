"""The ``contrastive`` section: training an encoder for embeddings."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from neobert.config.checks import Above0, Count, NotNegative, Positive, one_of, require
from neobert.config.section import Section


@dataclass(kw_only=True)
class ContrastiveConfig(Section):
    """Loss, pooling, pairs, and the weights that training starts from."""

    temperature: Above0 = 0.05
    """What similarities are divided by, greater than 0."""

    pooling: Annotated[str, one_of("avg", "cls", "max")] = "avg"
    """Sentence vector: mean of the tokens (``avg``), first token (``cls``), or ``max``."""

    loss_type: Annotated[str, one_of("simcse", "supcon")] = "simcse"
    """``simcse`` (InfoNCE) or ``supcon`` (several positives per anchor)."""

    hard_negative_weight: NotNegative = 0.0
    """Added to the logits of hard negatives: their log-weight."""

    hard_negatives: Count = 1
    """Hard negatives of a pair that a step uses, sampled each time; 0: none."""

    micro_batch_size: Positive | None = None
    """Texts encoded at a time (GradCache): memory of so many, loss and gradients of the whole
    batch; ``null``: all at once."""

    query_prefix: str = ""
    """Put before every query."""

    document_prefix: str = ""
    """Put before every document (positives and negatives)."""

    pretraining_step: Annotated[str, one_of("simcse", "mlm")] = "simcse"
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

    def combinations(self) -> list[str]:
        return require(
            self.pretrained_checkpoint_dir is None or self.pretrained_model_path is None,
            "contrastive.pretrained_checkpoint_dir and contrastive.pretrained_model_path are both "
            "set: keep the one to start from",
        )
