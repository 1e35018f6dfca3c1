"""What a pretraining run is evaluated on, and the metrics of each evaluation.

Bits per byte compare models of different vocabularies on the same text::

    bits per byte = loss · tokens / (bytes · ln 2)

``loss`` is the mean over the masked tokens in nats, ``tokens`` and ``bytes`` (UTF-8) are those of
the whole evaluation text, special tokens not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MaskedEvaluation:
    """An evaluation text at a mask rate."""

    name: str = ""
    """Of its source; empty where a run has one source."""

    rate: float | None = None
    """A further mask rate (``datacollator.eval_mlm_probabilities``); ``None``: the collator's."""

    tokens_per_byte: float | None = None
    """``None`` where the text has no byte."""

    weight: float = 1.0
    """Of the source in means over all sources."""

    @property
    def suffix(self) -> str:
        """End of the names of its metrics: ``/web@0.15``."""
        return (f"/{self.name}" if self.name else "") + self.rate_suffix

    @property
    def rate_suffix(self) -> str:
        """End of the names of means over all sources at its rate."""
        return "" if self.rate is None else f"@{self.rate:g}"


def evaluation_metrics(
    sets: Sequence[MaskedEvaluation], sums: Sequence[Sequence[float]]
) -> dict[str, float]:
    """The metrics of each set and, of several sources, their weighted means.

    ``sums``: of each set the loss in nats, the correct predictions, the targets and the batches.
    """
    metrics: dict[str, float] = {}
    for evaluation, (loss, correct, targets, _) in zip(sets, sums, strict=True):
        mean = loss / max(1.0, targets)
        metrics |= _named(
            evaluation.suffix, mean, correct / max(1.0, targets), evaluation.tokens_per_byte
        )
    for rate in dict.fromkeys(evaluation.rate for evaluation in sets):
        same = [evaluation for evaluation in sets if evaluation.rate == rate]
        if any(evaluation.name for evaluation in same):
            metrics |= _weighted_means(same, metrics)
    metrics["eval/batches"] = sum(
        batches
        for evaluation, (*_, batches) in zip(sets, sums, strict=True)
        if evaluation.rate is None
    )
    return metrics


def _named(
    suffix: str, loss: float, accuracy: float, tokens_per_byte: float | None
) -> dict[str, float]:
    metrics = {f"eval/loss{suffix}": loss, f"eval/perplexity{suffix}": perplexity(loss)}
    if tokens_per_byte is not None:
        metrics[f"eval/bits_per_byte{suffix}"] = loss * tokens_per_byte / math.log(2)
    return {**metrics, f"eval/accuracy{suffix}": accuracy}


def _weighted_means(
    sets: Sequence[MaskedEvaluation], metrics: dict[str, float]
) -> dict[str, float]:
    total = sum(evaluation.weight for evaluation in sets)
    end = sets[0].rate_suffix
    means: dict[str, float] = {}
    for metric in ("eval/loss", "eval/bits_per_byte", "eval/accuracy"):
        names = [f"{metric}{evaluation.suffix}" for evaluation in sets]
        if all(name in metrics for name in names):
            weighted = [
                evaluation.weight * metrics[name]
                for evaluation, name in zip(sets, names, strict=True)
            ]
            means[f"{metric}{end}"] = sum(weighted) / total
    return {**means, f"eval/perplexity{end}": perplexity(means[f"eval/loss{end}"])}


def perplexity(loss: float) -> float:
    """``exp(loss)``, infinite instead of an error where it overflows."""
    return math.exp(loss) if loss < 700 else math.inf
