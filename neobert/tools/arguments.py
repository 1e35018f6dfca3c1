"""What the command lines of several tools check alike."""

import argparse
from collections.abc import Callable

from neobert.config.model import ModelConfig

SHORTEST = 3
"""Tokens of a text that is more than its opening and closing one."""


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number and not below ``least``."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return number


def check_length(config: ModelConfig, max_length: int | None) -> None:
    """Raise ``ValueError`` if learned positions end before ``--max-length``."""
    longest = config.max_position_embeddings
    if max_length is not None and not config.rope and max_length > longest:
        raise ValueError(
            f"--max-length {max_length}: the model's learned positions end at {longest}"
        )
