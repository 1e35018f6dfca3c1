"""What several command lines check alike."""

import argparse

import pytest

from neobert.config.model import ModelConfig
from neobert.tools.arguments import check_length, number_from


def test_a_number_below_the_least_is_refused() -> None:
    assert number_from(3)("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="2 is below 3"):
        number_from(3)("2")


def test_texts_may_be_longer_than_trained_only_with_rotary_positions() -> None:
    check_length(ModelConfig(max_position_embeddings=64, rope=True), 65)
    check_length(ModelConfig(max_position_embeddings=64, rope=False), 64)
    check_length(ModelConfig(max_position_embeddings=64, rope=False), None)
    with pytest.raises(ValueError, match="--max-length=65 is longer than the 64 positions"):
        check_length(ModelConfig(max_position_embeddings=64, rope=False), 65)
