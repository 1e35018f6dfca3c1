"""Packed batches give what each document gives alone, values and gradients."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from neobert.config.model import ModelConfig
from neobert.config.root import Config
from neobert.losses.classification import classification_loss
from neobert.model.encoder import Encoder
from neobert.model.heads import ClassifierSettings, SequenceClassifier
from neobert.tasks.glue.labelled_batch import Examples, LabelledBatch
from neobert.tasks.glue.tasks import TASKS
from tests.tasks.glue.conftest import data_module, make_tokenizer

LENGTHS = [5, 1, 9, 3]


def examples() -> Examples:
    draw = np.random.default_rng(0)
    bounds = np.concatenate([[0], np.cumsum(LENGTHS)])
    return Examples(
        ids=draw.integers(5, 50, bounds[-1]).astype(np.int32),
        types=np.zeros(bounds[-1], np.int8),
        bounds=bounds,
        labels=np.array([0.0, 1.0, 1.0, np.nan]),
        names=np.arange(4),
    )


def batch(
    *rows: int,
    task: str = "sst2",
    multiple: int | None = None,
    row_length: int | None = None,
    packed: bool = True,
    has_types: bool = False,
) -> LabelledBatch:
    """The batch of these examples."""
    config = Config(task="glue")
    config.datacollator.pad_to_multiple_of = multiple
    config.tokenizer.padding = "longest" if row_length is None else "max_length"
    config.glue.max_seq_length = row_length or 128
    data = data_module(config, make_tokenizer(), packed, has_types)
    data.task = TASKS[task]
    return data.batch([examples()[row] for row in rows])


def model() -> SequenceClassifier:
    torch.manual_seed(0)
    config = ModelConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return SequenceClassifier(Encoder(config, 50, 0), 2, ClassifierSettings(init_std=0.5)).double()


def gradients(classifier: SequenceClassifier, batches: list[LabelledBatch]) -> list[torch.Tensor]:
    classifier.zero_grad()
    for batch in batches:
        scores = classifier(batch.inputs)[: batch.num_examples]
        classification_loss(scores, batch.labels).backward()
    return [parameter.grad.clone() for parameter in classifier.parameters()]


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.proves("datacollator.pad_to_multiple_of")
def test_a_packed_batch_is_its_documents_one_by_one(multiple: int) -> None:
    classifier, rows = model(), [2, 0, 1]
    together = batch(*rows, multiple=multiple)
    alone = [batch(row) for row in rows]
    assert len(together.inputs.input_ids) % multiple == 0
    assert together.inputs.num_tokens == 15
    scores = classifier(together.inputs)[: together.num_examples]
    assert_close(scores, torch.cat([classifier(one.inputs) for one in alone]))
    for packed, single in zip(
        gradients(classifier, [together]), gradients(classifier, alone), strict=True
    ):
        assert_close(packed, single)


def test_an_empty_batch_teaches_nothing() -> None:
    empty = batch()
    assert empty.num_examples == empty.inputs.num_tokens == 0
    assert all((gradient == 0).all() for gradient in gradients(model(), [empty]))


def test_a_missing_label_is_no_class() -> None:
    found = batch(3, 0)
    assert found.labels.tolist() == [-1, 0]
    assert found.labels.dtype == torch.int64
    assert batch(0, task="stsb").labels.dtype == torch.float32


@pytest.mark.proves("tokenizer.padding")
@pytest.mark.parametrize(
    ("settings", "width"), [({}, 9), ({"row_length": 12}, 12), ({"multiple": 4}, 12)]
)
def test_a_padded_batch_masks_what_is_no_text(settings: dict[str, int], width: int) -> None:
    inputs = batch(0, 2, packed=False, has_types=True, **settings).inputs
    assert inputs.input_ids.shape == (2, width)
    assert inputs.attention_mask.sum(1).tolist() == [5, 9]
    assert (inputs.input_ids[inputs.attention_mask == 0] == 0).all()
    assert inputs.num_tokens == 14
    assert batch(0, packed=False).inputs.token_type_ids is None
