"""The ``datacollator`` section: masking and packing."""

from dataclasses import dataclass, field
from typing import Annotated

from neobert.config.checks import Positive, Share, above, at_least, one_of, require, within
from neobert.config.section import Section
from neobert.config.stages import place_in_run


@dataclass(kw_only=True)
class DataCollatorConfig(Section):
    """How rows become masked batches."""

    mlm_probability: Share = 0.15
    """Share of the tokens that are to be predicted, in [0, 1]."""

    mlm_schedule: dict[str, Share] = field(default_factory=dict)
    """Shares of training by place in the run, a step or a percentage: ``{0%: 0.3, 90%: 0.15}``;
    empty: ``mlm_probability`` throughout. Evaluation is always at ``mlm_probability``."""

    mlm_schedule_shape: Annotated[str, one_of("linear", "cosine", "steps")] = "linear"
    """Between two places of ``mlm_schedule``: ``linear``, ``cosine`` or ``steps``."""

    eval_mlm_probabilities: list[Annotated[float, above(0), within(0, 1)]] = field(
        default_factory=list
    )
    """More rates to evaluate at, each logged as ``eval/loss@0.15``: curves of runs with other masks
    compare."""

    mask_unit: Annotated[str, one_of("token", "word", "span")] = "token"
    """What is masked whole: a ``token``, a ``word`` or a ``span`` of tokens."""

    span_max: Positive = 3
    """Tokens of the longest span."""

    span_p: Annotated[float, above(0), within(0, 1)] | None = None
    """Lengths of spans are geometric with this probability (SpanBERT: 0.2); ``null``: uniform."""

    replace_share: Share = 0.8
    """Without ``mask_all``: share of the predicted tokens that become [MASK]."""

    random_share: Share = 0.1
    """Without ``mask_all``: share that becomes a random token; the rest is kept."""

    pad_to_multiple_of: Positive | None = None
    """Unpacked batches: pad the token axis up to a multiple of this."""

    mask_all: bool = False
    """Replace every predicted token by [MASK] (true), or 80 % [MASK], 10 % random, 10 % kept."""

    pack_sequences: bool = False
    """Fill rows of one length with whole documents."""

    max_length: Annotated[int, at_least(3)] | None = None
    """Length of packed rows in tokens; ``null``: ``dataset.max_seq_length``."""

    def combinations(self) -> list[str]:
        problems = []
        for place in self.mlm_schedule:
            try:
                place_in_run(place, 1)
            except ValueError:
                problems.append(
                    f"datacollator.mlm_schedule.{place}: must be a step or a percentage of the run "
                    "such as 90%"
                )
        shares = self.replace_share + self.random_share
        return problems + require(
            shares <= 1 + 1e-9,
            f"datacollator.replace_share and .random_share are {shares:g} together, at most 1",
        )
