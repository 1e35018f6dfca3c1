"""The gradient of an optimizer step is that of its whole batch, however it was cut up."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from neobert.batch import IGNORE, MaskedBatch, PackedBatch
from neobert.config.model import ModelConfig
from neobert.config.optimizer import OptimizerConfig
from neobert.config.scheduler import SchedulerConfig
from neobert.model.heads import MaskedLM
from neobert.optim.schedule import resolve_schedule
from neobert.tasks.pretraining.evaluation_sets import perplexity
from neobert.tasks.pretraining.module import PretrainingModule, PretrainingSettings

# Lightning's advice about workers and validation, of no use to a bare Trainer
pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)

VOCABULARY = 50
DOCUMENTS = [5, 3, 9, 2, 12, 4, 7, 1]
"""Lengths; each micro-batch takes two documents, so their numbers of targets differ."""

TARGETS = [1, 2, 5, 1, 6, 0, 3, 0]


def documents() -> list[tuple[list[int], list[int]]]:
    """Ids of each document and the places in it that are to be predicted."""
    draw = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(5, VOCABULARY, (length,), generator=draw).tolist(),
            torch.randperm(length, generator=draw)[:targets].tolist(),
        )
        for length, targets in zip(DOCUMENTS, TARGETS, strict=True)
    ]


def masked(chosen: list[tuple[list[int], list[int]]]) -> MaskedBatch:
    inputs = PackedBatch.from_documents([ids for ids, _ in chosen])
    bounds = inputs.cu_seqlens.tolist()
    places = [
        start + place for start, (_, found) in zip(bounds, chosen, strict=False) for place in found
    ]
    positions = torch.tensor([*places, 0])  # the last is filler
    labels = torch.cat([inputs.input_ids[positions[:-1]], torch.tensor([IGNORE])])
    return MaskedBatch(inputs, positions, labels, len(places), sum(TARGETS))


def micro_batches(size: int) -> list[MaskedBatch]:
    found = documents()
    return [masked(found[start : start + size]) for start in range(0, len(found), size)]


class Gradients(Callback):
    """Keeps the gradients that the optimizer gets."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self.found = {
            name: parameter.grad.clone() for name, parameter in pl_module.named_parameters()
        }


def module(masked_only: bool = True) -> PretrainingModule:
    torch.manual_seed(0)
    config = ModelConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    model = MaskedLM(config, VOCABULARY, 0).double()
    settings = PretrainingSettings(masked_logits_only=masked_only)
    schedule = resolve_schedule(SchedulerConfig(warmup_steps=0), 1)
    return PretrainingModule(model, OptimizerConfig(lr=0.0), schedule, settings)


def gradients(batches: list[MaskedBatch], tmp_path: Path, masked_only: bool = True) -> dict:
    kept = Gradients()
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        accumulate_grad_batches=len(batches),
        callbacks=[kept],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loader: DataLoader[MaskedBatch] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module(masked_only), loader)
    return kept.found


def relative_error(one: dict, two: dict) -> float:
    flat = [torch.cat([grads[name].flatten() for name in sorted(grads)]) for grads in (one, two)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@pytest.fixture(autouse=True)
def _no_tips() -> None:
    import logging

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.mark.proves("trainer.gradient_accumulation_steps", "trainer.masked_logits_only_loss")
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("masked_only", [True, False])
def test_accumulation_over_unequal_micro_batches_is_the_whole_batch(
    size: int, masked_only: bool, tmp_path: Path
) -> None:
    whole = gradients(micro_batches(len(DOCUMENTS)), tmp_path)
    parts = gradients(micro_batches(size), tmp_path, masked_only)
    assert relative_error(parts, whole) < 1e-12


def test_a_mean_of_means_would_be_noticed(tmp_path: Path) -> None:
    whole = gradients(micro_batches(len(DOCUMENTS)), tmp_path)
    wrong = [
        replace(batch, num_targets_in_step=4 * batch.num_targets) for batch in micro_batches(2)
    ]
    assert relative_error(gradients(wrong, tmp_path), whole) > 1e-3


def test_perplexity_does_not_overflow() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1e6) == float("inf")
