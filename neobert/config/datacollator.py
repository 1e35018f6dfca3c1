"""The ``datacollator`` section: masking and packing."""

from dataclasses import dataclass, field

from neobert.config.checks import above, at_least, one_of, require, within
from neobert.config.section import Section
from neobert.config.stages import place_in_run

MASK_UNITS = ("token", "word", "span")
MASK_SCHEDULE_SHAPES = ("linear", "cosine", "steps")


@dataclass(kw_only=True)
class DataCollatorConfig(Section):
    """How rows become masked batches."""

    mlm_probability: float = 0.15
    """Share of the tokens that are to be predicted, in [0, 1]."""

    mlm_schedule: dict[str, float] = field(default_factory=dict)
    """Shares of training by place in the run, a step or a percentage: ``{0%: 0.3, 90%: 0.15}``;
    empty: ``mlm_probability`` throughout. Evaluation is always at ``mlm_probability``."""

    mlm_schedule_shape: str = "linear"
    """Between two places of ``mlm_schedule``: ``linear``, ``cosine`` or ``steps``."""

    eval_mlm_probabilities: list[float] = field(default_factory=list)
    """More rates to evaluate at, each logged as ``eval/loss@0.15``: curves of runs with other masks
    compare."""

    mask_unit: str = "token"
    """What is masked whole: a ``token``, a ``word`` or a ``span`` of tokens."""

    span_max: int = 3
    """Tokens of the longest span."""

    span_p: float | None = None
    """Lengths of spans are geometric with this probability (SpanBERT: 0.2); ``null``: uniform."""

    replace_share: float = 0.8
    """Without ``mask_all``: share of the predicted tokens that become [MASK]."""

    random_share: float = 0.1
    """Without ``mask_all``: share that becomes a random token; the rest is kept."""

    pad_to_multiple_of: int | None = None
    """Unpacked batches: pad the token axis up to a multiple of this."""

    mask_all: bool = False
    """Replace every predicted token by [MASK] (true), or 80 % [MASK], 10 % random, 10 % kept."""

    pack_sequences: bool = False
    """Fill rows of one length with whole documents."""

    max_length: int | None = None
    """Length of packed rows in tokens; ``null``: ``dataset.max_seq_length``."""

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        problems = within("datacollator.mlm_probability", self.mlm_probability, 0, 1)
        problems += at_least("datacollator.pad_to_multiple_of", self.pad_to_multiple_of, 1)
        problems += at_least("datacollator.max_length", self.max_length, 3)
        return problems + self._schedule_problems() + self._unit_problems()

    def _schedule_problems(self) -> list[str]:
        key = "datacollator.mlm_schedule"
        problems = one_of(f"{key}_shape", self.mlm_schedule_shape, MASK_SCHEDULE_SHAPES)
        for rate in self.eval_mlm_probabilities:
            problems += above("datacollator.eval_mlm_probabilities", rate, 0)
            problems += within("datacollator.eval_mlm_probabilities", rate, 0, 1)
        for place, rate in self.mlm_schedule.items():
            problems += within(f"{key}.{place}", rate, 0, 1)
            try:
                place_in_run(place, 1)
            except ValueError:
                problems.append(
                    f"{key}.{place}: must be a step or a percentage of the run such as 90%"
                )
        return problems

    def _unit_problems(self) -> list[str]:
        problems = one_of("datacollator.mask_unit", self.mask_unit, MASK_UNITS)
        problems += at_least("datacollator.span_max", self.span_max, 1)
        problems += above("datacollator.span_p", self.span_p, 0)
        problems += within("datacollator.span_p", self.span_p, 0, 1)
        problems += within("datacollator.replace_share", self.replace_share, 0, 1)
        problems += within("datacollator.random_share", self.random_share, 0, 1)
        shares = self.replace_share + self.random_share
        return problems + require(
            shares <= 1 + 1e-9,
            f"datacollator.replace_share and .random_share are {shares:g} together, at most 1",
        )
