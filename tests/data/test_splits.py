"""Text that is trained on and evaluated on is told; the splits themselves: ``test_sources.py``."""

import pytest
from datasets import Dataset

from neobert.config.dataset import DatasetConfig
from neobert.data.splits import split_data


@pytest.mark.parametrize(
    ("train_split", "eval_split", "told"),
    [
        (None, "train[:5%]", True),
        ("train", "train", True),
        ("train[5%:]", "train[:5%]", False),
        ("train[:10]", "train[5:8]", True),
        ("train[10:20]", "train[20:]", False),
        (None, "held", False),
    ],
)
def test_evaluation_text_that_is_trained_on_is_told(
    caplog: pytest.LogCaptureFixture, train_split: str | None, eval_split: str, told: bool
) -> None:
    data = Dataset.from_dict({"text": [str(number) for number in range(40)]})
    config = DatasetConfig(train_split=train_split, eval_split=eval_split)
    with caplog.at_level("WARNING", logger="neobert"):
        split_data({"train": data, "held": data}, config, "mine", seed=0)
    assert ("is trained on too" in caplog.text) == told
