"""The ``stages`` of a run: what changes on the way, and when."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from neobert.config.checks import Above0, Count, NotNegative, Positive, Share, at_least, require
from neobert.config.scheduler import DecayShape
from neobert.config.section import Section

if TYPE_CHECKING:
    from neobert.config.root import Config


@dataclass(kw_only=True)
class StageConfig(Section):
    """A part of a run. What is ``null`` is as the sections say (``dataset.max_seq_length``, …)."""

    name: str = ""
    """Shown in the log; empty: its number."""

    until: str | None = None
    """Where the stage ends: a step or a percentage of the run (``90%``); ``null``: with the run."""

    max_seq_length: Annotated[int, at_least(3)] | None = None
    """Row length of packing and longest document, in tokens."""

    per_device_train_batch_size: Positive | None = None
    """Rows of a micro-batch on each device."""

    gradient_accumulation_steps: Positive | None = None
    """Micro-batches of an optimizer step on each device."""

    lr: NotNegative | None = None
    """Learning rate of the stage instead of ``optimizer.lr`` and the schedule's factor; the warm-up
    still applies."""

    decay: DecayShape | None = None
    """Shape of a decay from ``lr`` over the stage: ``linear``, ``cosine`` or ``sqrt`` (1 - sqrt of
    the progress); ``null``: ``lr`` is held. Needs ``lr``."""

    final_lr_ratio: Share = 0.0
    """End of ``decay``, as a fraction of ``lr``."""

    rope_theta: Above0 | None = None
    """Base of the rotary frequencies."""

    rope_scaling: dict[str, Any] = field(default_factory=dict)
    """Rotary scaling in the words of transformers; empty: ``model.rope_scaling``."""

    mlm_probability: Share | None = None
    """Share of the tokens that are predicted."""

    mixture: dict[str, NotNegative] = field(default_factory=dict)
    """Weights of the sources of ``dataset.mixture``, which sum to 1; a source that is left out has
    none. Empty: the weights there."""

    mixture_temperature: NotNegative | None = None
    """Instead of ``dataset.mixture_temperature``."""

    min_length: Count | None = None
    """Shortest document in tokens that is kept."""

    def combinations(self, place: str = "stages[0]") -> list[str]:
        """What is wrong with this stage, whose key is ``place``; empty if nothing is."""
        return require(
            self.decay is None or self.lr is not None,
            f"{place}.decay={self.decay}: needs {place}.lr to decay from",
        )


CHANGED_KEYS = {
    "dataset": ("max_seq_length", "min_length", "mixture_temperature"),
    "datacollator": ("mlm_probability",),
    "trainer": ("per_device_train_batch_size", "gradient_accumulation_steps"),
    "model": ("rope_theta", "rope_scaling"),
}
"""Section -> its keys that a stage has too."""


def with_stage(config: "Config", stage: StageConfig) -> "Config":
    """The settings of a run with the changes of a stage."""
    changes: dict[str, dict[str, Any]] = {
        section: {key: getattr(stage, key) for key in keys if getattr(stage, key) not in (None, {})}
        for section, keys in CHANGED_KEYS.items()
    }
    dataset, collator = changes["dataset"], changes["datacollator"]
    if "max_seq_length" in dataset:
        collator["max_length"] = None
    if "min_length" in dataset:
        dataset["filter_by_length"] = True
    if "mlm_probability" in collator:
        collator["mlm_schedule"] = {}
    if stage.mixture:
        dataset["mixture"] = {
            name: {**entry, "weight": stage.mixture.get(name, 0.0)}
            for name, entry in config.dataset.mixture.items()
        }
    sections = {name: replace(getattr(config, name), **new) for name, new in changes.items()}
    return replace(config, **sections, stages=[])


def place_in_run(place: str | int, total_steps: int) -> int:
    """A step, or a percentage of the run such as ``90%``, as a step.

    Raises ``ValueError`` for anything else.
    """
    text = str(place).strip()
    if text.endswith("%"):
        percent = float(text[:-1])
        if not 0 <= percent <= 100:
            raise ValueError(f"{place}: a percentage is from 0 % to 100 %")
        return round(total_steps * percent / 100)
    step = int(text)
    if step < 0:
        raise ValueError(f"{place}: a step is 0 or more")
    return step


def stage_ends(stages: list[StageConfig], total_steps: int) -> tuple[list[int], list[str]]:
    """The step at which each stage ends, and what is wrong with where they end."""
    ends, problems = [], []
    for number, stage in enumerate(stages):
        is_last = number == len(stages) - 1
        until = stage.until if stage.until is not None else ("100%" if is_last else None)
        if until is None:
            problems.append(
                f"stages[{number}].until: only the last stage may leave it out; set a step or a "
                "percentage such as 90%"
            )
            continue
        try:
            ends.append(place_in_run(until, total_steps))
        except ValueError:
            problems.append(
                f"stages[{number}].until={until}: must be a step or a percentage such as 90%"
            )
    if problems or not stages:
        return ends, problems
    for number, (end, next_end) in enumerate(pairwise([0, *ends])):
        problems += require(
            next_end > end,
            f"stages[{number}].until={stages[number].until}: is step {next_end}, where the stage "
            f"begins at step {end}; stages end one after the other",
        )
    problems += require(
        ends[-1] == total_steps,
        f"stages[{len(stages) - 1}].until={stages[-1].until}: the last stage ends at step "
        f"{ends[-1]}, the run at trainer.max_steps={total_steps}; leave it out",
    )
    return ends, problems
