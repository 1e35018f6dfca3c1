"""mteb's own check of a model: every kind of text task runs through it."""

import mteb
import pytest
import torch
from mteb.mocks.mock_run import mock_run
from mteb.results import TaskResult
from torch import nn

from neobert.tasks.mteb.model import load_evaluated
from neobert.tasks.mteb.packed_encoder import revision_of, weights_digest


@pytest.mark.filterwarnings("default")  # of scikit-learn, about mock data of three rows
def test_all_text_tasks_of_mteb_s_mock_run_pass(make_run, compose) -> None:
    evaluated = load_evaluated(compose(f"trainer.output_dir={make_run()}"))
    found = mock_run(evaluated.encoder).task_results
    compatible = {name: result for name, result in found.items() if result is not None}
    failed = {name for name, result in compatible.items() if not isinstance(result, TaskResult)}
    assert failed == set()
    assert len(compatible) >= 28  # of mteb 2.26; the others have images, sounds or films


def test_mteb_takes_the_encoder_for_one(make_run, compose) -> None:
    evaluated = load_evaluated(compose(f"trainer.output_dir={make_run()}"))
    assert isinstance(evaluated.encoder, mteb.EncoderProtocol)
    assert evaluated.encoder.mteb_model_meta.embed_dim == 32


def test_a_fingerprint_is_of_numbers_names_and_shapes() -> None:
    weights = {"a": torch.arange(6.0), "b": torch.ones(2)}
    same = dict(reversed(weights.items()))
    assert weights_digest(weights) == weights_digest(same)
    others = [
        {**weights, "a": torch.arange(6.0).view(2, 3)},
        {**weights, "b": torch.tensor([1.0, 1.0001])},
        {"a": weights["a"], "c": weights["b"]},
    ]
    assert len({weights_digest(one) for one in [weights, *others]}) == 4


def test_a_revision_names_what_changes_vectors() -> None:
    model = nn.Linear(2, 2)
    plain = revision_of(model, "avg", 128, False, {})
    assert plain == f"{weights_digest(model.state_dict())[:16]}-avg-128"
    assert revision_of(model, "avg", 128, True, {}) == f"{plain}-bf16"
    prompted = {revision_of(model, "avg", 128, False, {"query": text}) for text in ("a", "b", "a")}
    assert len(prompted) == 2
