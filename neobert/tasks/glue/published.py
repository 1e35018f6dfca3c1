"""Published GLUE dev scores that a report sets beside its own, each with its source.

Percent. Protocols differ: grids, transfer from MNLI, and which of a task's two metrics is reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass

GLUE_8 = ("mnli", "qnli", "qqp", "rte", "sst2", "mrpc", "cola", "stsb")
"""The tasks of the usual average, in the order of the papers' tables: WNLI is left out."""


@dataclass(frozen=True, slots=True)
class Published:
    """A row of somebody's table."""

    model: str
    scores: Mapping[str, float]
    average: float
    """As printed there."""

    source: str


def _row(model: str, scores: tuple[float, ...], average: float, source: str) -> Published:
    return Published(model, dict(zip(GLUE_8, scores, strict=True)), average, source)


NEOBERT_TABLE = "Le Breton et al. 2025, NeoBERT (arXiv 2502.19587), table 3"

PUBLISHED = (
    _row(
        "BERT-base (test set, not dev)",
        (84.0, 90.5, 71.2, 66.4, 93.5, 88.9, 52.1, 85.8),
        79.6,
        f"Devlin et al. 2019 (arXiv 1810.04805), as given in {NEOBERT_TABLE}; QQP is F1",
    ),
    _row("RoBERTa-base", (87.6, 92.8, 91.9, 78.7, 94.8, 90.2, 63.6, 91.2), 86.4, NEOBERT_TABLE),
    _row("ModernBERT-base", (89.1, 93.9, 92.1, 87.4, 96.0, 92.2, 65.1, 91.8), 88.5, NEOBERT_TABLE),
    _row("NeoBERT-4096", (89.0, 93.7, 90.7, 91.3, 95.6, 93.4, 66.2, 91.8), 89.0, NEOBERT_TABLE),
)
