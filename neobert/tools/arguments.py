"""What the command lines of several tools check alike."""

import argparse
from collections.abc import Callable

import torch

from neobert.config.model import ModelConfig
from neobert.files import user_path
from neobert.training.encoder_start import of_length
from neobert.training.start import Pretrained, open_weights

SHORTEST = 3
"""Tokens of a text that is more than its opening and closing one."""


def number_from(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number and not below ``least``."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return number


def add_model(arguments: argparse.ArgumentParser) -> None:
    """The model that a tool runs: see :func:`open_model`."""
    arguments.add_argument("model", help="a run, a checkpoint, an exported folder or a hub id")
    arguments.add_argument(
        "--checkpoint",
        default="latest",
        metavar="STEP",
        help="of a run: latest (the newest undamaged one), best, or a step",
    )


def open_model(options: argparse.Namespace) -> Pretrained:
    """The weights that the options of :func:`add_model` name."""
    return open_weights(options.model, options.checkpoint, selector_key="--checkpoint")


def add_texts(arguments: argparse.ArgumentParser) -> None:
    """Add the file of texts, and which of its columns they are in."""
    arguments.add_argument(
        "texts", type=user_path, help="UTF-8, a text per line; or jsonl, json, csv, tsv, parquet"
    )
    arguments.add_argument(
        "--text-column", help="column of a table (default: text, sentence or content)"
    )


def add_batches(arguments: argparse.ArgumentParser, tokens: int) -> None:
    """Add how long and how large the batches of texts are, and where they are computed.

    ``tokens``: of a batch, unless set.
    """
    arguments.add_argument(
        "--max-length", type=number_from(SHORTEST), help="tokens (default: the model's)"
    )
    arguments.add_argument("--tokens-per-batch", type=number_from(1), default=tokens)
    add_device(arguments)


def add_device(arguments: argparse.ArgumentParser) -> None:
    """Add where the model is computed."""
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def check_length(config: ModelConfig, max_length: int | None) -> None:
    """Raise ``ConfigError`` if learned positions end before ``--max-length``."""
    if max_length is not None:
        of_length(config, "--max-length", max_length)
