"""The ``datacollator`` section: masking and packing."""

from dataclasses import dataclass

from neobert.config.checks import at_least, within


@dataclass(kw_only=True)
class DataCollatorConfig:
    """How rows become masked batches."""

    mlm_probability: float = 0.15
    """Share of the tokens that are to be predicted, in [0, 1]."""

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
        found = within("datacollator.mlm_probability", self.mlm_probability, 0, 1)
        found += at_least("datacollator.pad_to_multiple_of", self.pad_to_multiple_of, 1)
        return found + at_least("datacollator.max_length", self.max_length, 3)
