"""The ``contrastive`` section: training an encoder for embeddings."""

from dataclasses import dataclass

from neobert.config.checks import above, at_least, one_of

POOLINGS = ("avg", "cls", "max")
LOSSES = ("simcse", "supcon")


@dataclass(kw_only=True)
class ContrastiveConfig:
    """Loss and pooling."""

    temperature: float = 0.05
    """What similarities are divided by, greater than 0."""

    pooling: str = "avg"
    """Sentence vector: mean of the tokens (``avg``), first token (``cls``), or ``max``."""

    loss_type: str = "simcse"
    """``simcse`` (InfoNCE) or ``supcon`` (several positives per anchor)."""

    hard_negative_weight: float = 0.0
    """Added to the logits of hard negatives: their log-weight."""

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        found = above("contrastive.temperature", self.temperature, 0)
        found += one_of("contrastive.pooling", self.pooling, POOLINGS)
        found += one_of("contrastive.loss_type", self.loss_type, LOSSES)
        return found + at_least("contrastive.hard_negative_weight", self.hard_negative_weight, 0)
