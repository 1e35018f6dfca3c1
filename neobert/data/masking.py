"""Which tokens of a row are to be predicted, and what the model sees there instead.

BERT's corruption (arXiv 1810.04805, section 3.1): 80 % ``[MASK]``, 10 % a random word, 10 % left as
it is; or ``[MASK]`` always (NeoBERT). The generator is keyed by (seed, row), so a row's mask
depends neither on workers nor on ranks nor on restarts. The number of targets of a row is fixed up
to rounding, which keeps the number per batch nearly static; each token is a target with the
probability of the step. Tokens are chosen one by one, or by whole words or spans.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neobert.config.datacollator import DataCollatorConfig
from neobert.data.curriculum import MaskRate, mask_rate
from neobert.data.mask_units import MaskUnits, choose_units, continues_word
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Masking:
    """How a run masks."""

    rate: MaskRate
    """Share of the tokens to predict, by step."""

    mask_all: bool
    mask_id: int
    random_ids: Ids
    """Ids that may replace a token: neither special nor inert."""

    seed: int
    units: MaskUnits = field(default_factory=MaskUnits)
    replace_share: float = 0.8
    """Of the chosen tokens, those that become ``[MASK]``, if not all do."""

    random_share: float = 0.1
    """Of the chosen tokens, those that become a random one; the rest stays."""

    def most_targets(self, places: int) -> int:
        """Upper bound of the targets among ``places`` tokens of one row, at any step."""
        return int(np.ceil(self.rate.highest * places))


def build_masking(
    config: DataCollatorConfig,
    tokenizer: TokenizerInfo,
    seed: int,
    total_steps: int | None = None,
    first_step: int = 0,
) -> Masking:
    """What ``datacollator.*`` says. Without ``total_steps`` the rate is constant: evaluation.

    ``first_step``: the step of the run that the batches count from.

    Raises ``ConfigError`` where words are to be masked and the vocabulary does not mark them.
    """
    table = None
    if config.mask_unit == "word":
        try:
            table = continues_word(tokenizer.tokenizer, tokenizer.vocab_size)
        except ValueError as error:
            raise ConfigError(f"datacollator.mask_unit=word: {error}; use span") from error
    return Masking(
        rate=mask_rate(config, total_steps).after(first_step),
        mask_all=config.mask_all,
        mask_id=tokenizer.mask_token_id,
        random_ids=tokenizer.random_ids,
        seed=seed,
        units=MaskUnits(config.mask_unit, table, config.span_max, config.span_p),
        replace_share=config.replace_share,
        random_share=config.random_share,
    )


def mask_row(
    ids: Ids, maskable: NDArray[np.bool_], masking: Masking, row: int, step: int = 0
) -> tuple[Ids, Ids]:
    """Corrupted copy of ``ids`` and the positions to predict, ascending.

    ``maskable`` is false at special tokens and padding; ``row`` is the row's number in the run,
    ``step`` the optimizer step it is for.
    """
    draw = np.random.Generator(np.random.Philox(key=[masking.seed, row]))
    places = np.flatnonzero(maskable)
    expected = masking.rate.at(step) * len(places)
    count = int(expected) + (draw.random() < expected - int(expected))
    corrupted = ids.copy()
    if masking.units.kind == "token":
        chosen = np.sort(draw.choice(places, size=count, replace=False))
        unit_of = np.arange(count)
    else:
        units = masking.units.of(ids, places, draw)
        indices = choose_units(units, count, draw)
        chosen, unit_of = places[indices], units[indices]
    if masking.mask_all:
        corrupted[chosen] = masking.mask_id
        return corrupted, chosen
    if masking.units.kind == "span":  # SpanBERT: a span shares one outcome
        outcome = draw.random(int(unit_of.max(initial=-1)) + 1)[unit_of]
    else:
        outcome = draw.random(len(chosen))
    corrupted[chosen[outcome < masking.replace_share]] = masking.mask_id
    is_random = (outcome >= masking.replace_share) & (
        outcome < masking.replace_share + masking.random_share
    )
    random = chosen[is_random]
    corrupted[random] = draw.choice(masking.random_ids, size=len(random))
    return corrupted, chosen
