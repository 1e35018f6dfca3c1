import random
from collections.abc import Callable

import pytest

from neobert.data.tokenizer import TokenizerInfo, describe_tokenizer
from neobert.data.wordpiece import train_wordpiece

WORDS = "the a river runs north of mountain border which export rice oil and coal to island".split()  # noqa: SIM905


def some_texts(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, longest))) for _ in range(count)]


@pytest.fixture(scope="session")
def make_texts() -> Callable[..., list[str]]:
    return some_texts


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return some_texts(120)


@pytest.fixture(scope="session")
def info() -> TokenizerInfo:
    return describe_tokenizer(train_wordpiece(lambda: some_texts(200, seed=1), 128), "tiny")
