"""A padded batch is computed in groups of like length: what comes out is as of the whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from neobert.config.scheduler import SchedulerConfig
from neobert.optim.schedule import resolve_schedule
from neobert.tasks.glue.classifier import hub_head
from neobert.tasks.glue.labelled_batch import Examples
from neobert.tasks.glue.module import GlueModule
from neobert.tasks.glue.tasks import TASKS
from neobert.training.hub_model import load_hub_model
from tests.tasks.glue.conftest import Settings, data_module, make_tokenizer
from tests.tasks.glue.test_hub_classifier import save, words

LENGTHS = [4, 17, 2, 9, 3, 30, 6, 5, 11, 2, 8]


def examples() -> Examples:
    draw = np.random.default_rng(0)
    bounds = np.concatenate([[0], np.cumsum(LENGTHS)])
    return Examples(
        ids=draw.integers(5, 17, bounds[-1]).astype(np.int32),
        types=np.concatenate([np.arange(length) > length // 2 for length in LENGTHS]),
        bounds=bounds,
        labels=np.array([0.0, 1.0] * 6)[: len(LENGTHS)],
        names=np.arange(len(LENGTHS)),
    )


@pytest.mark.parametrize("name", ["sst2", "stsb"])
@pytest.mark.parametrize(("kind", "types"), [("bert", True), ("modernbert", False)])
def test_groups_of_like_length_give_what_the_whole_batch_gives(
    settings: Settings, tmp_path: Path, name: str, kind: str, types: bool
) -> None:
    task = TASKS[name]
    config = settings(*words(save(kind, tmp_path / kind)))
    model, heads = load_hub_model(config, hub_head(config.glue, task))
    schedule = resolve_schedule(SchedulerConfig(), 10)
    data = data_module(config, make_tokenizer(), packed=False, has_types=types)
    data.task = task
    module = GlueModule(model, heads, schedule, data).eval()
    module.double()  # in fp32 some of these gradients cancel to what rounding leaves
    batch = data.batch(examples())
    inputs = batch.inputs
    segments = {"token_type_ids": inputs.token_type_ids} if types else {}
    whole = model(inputs.input_ids, inputs.attention_mask, **segments).logits
    grouped = module.scores(batch)
    assert_close(grouped, whole, rtol=1e-4, atol=1e-6)
    assert whole.std(0).min() > 1e-3  # the documents differ, so their order counts
    parameters = list(model.parameters())
    weights = torch.arange(1.0, len(LENGTHS) + 1)[:, None]  # nor do their gradients weigh the same
    expected = torch.autograd.grad((whole.square() * weights).sum(), parameters, allow_unused=True)
    found = torch.autograd.grad((grouped.square() * weights).sum(), parameters, allow_unused=True)
    assert any(gradient is not None for gradient in expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_group_leaves_out_what_it_pads_whole(settings: Settings) -> None:
    config = settings("tokenizer.padding=max_length", "glue.max_seq_length=64")
    data = data_module(config, make_tokenizer(), packed=False)
    data.task = TASKS["sst2"]
    inputs = data.batch(examples()).inputs
    assert inputs.input_ids.shape == (len(LENGTHS), 64)
    groups = inputs.by_length(4)
    assert [group.input_ids.shape for _, group in groups] == [(4, 4), (4, 9), (3, 30)]
    assert sum(group.num_tokens for _, group in groups) == inputs.num_tokens == sum(LENGTHS)
    assert torch.cat([rows for rows, _ in groups]).sort().values.tolist() == list(range(11))
