"""From the scores of tasks to the numbers of a benchmark."""

from collections import defaultdict
from collections.abc import Mapping

MEAN_TASK, MEAN_TYPE = "Mean (Task)", "Mean (TaskType)"
"""mteb's names: the mean over tasks, and the mean over the means of types."""


def by_type(scores: Mapping[str, float], types: Mapping[str, str]) -> dict[str, float]:
    """Mean score of each type, by its name."""
    groups = defaultdict(list)
    for name, score in scores.items():
        groups[types[name]].append(score)
    return {kind: sum(group) / len(group) for kind, group in sorted(groups.items())}


def overall(scores: Mapping[str, float], types: Mapping[str, str]) -> dict[str, float]:
    """The two means that benchmarks are compared by; empty without scores."""
    if not scores:
        return {}
    means = by_type(scores, types)
    return {
        MEAN_TASK: sum(scores.values()) / len(scores),
        MEAN_TYPE: sum(means.values()) / len(means),
    }
