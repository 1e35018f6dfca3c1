"""``neobert.tools.plan``: counts, memory against real tensors, measured steps, what is refused."""

from dataclasses import replace
from itertools import count

import pytest
import torch

from neobert.config.compose import compose_config
from neobert.config.root import Config
from neobert.losses.mlm import masked_lm_loss
from neobert.model.flops import training_flops
from neobert.model.heads import MaskedLM
from neobert.optim.build import build_optimizer
from neobert.tools.plan import StepTimer, hours_on, main, stage_plans, synthetic_batch
from neobert.training import step_memory
from neobert.training.step_memory import activation_bytes, meta_model

TINY = (
    "model.hidden_size=16",
    "model.num_hidden_layers=3",
    "model.num_attention_heads=2",
    "model.intermediate_size=24",
    "dataset.max_seq_length=32",
    "datacollator.pack_sequences=true",
    "trainer.per_device_train_batch_size=4",
    "trainer.max_steps=10",
)


def tiny(*words: str) -> Config:
    return compose_config([*TINY, *words])


def test_stages_have_the_tokens_targets_and_operations_of_their_rows() -> None:
    schedule = "datacollator.mlm_schedule={0%: 0.4, 100%: 0.2}"
    stages = "stages=[{until: 60%}, {max_seq_length: 64, gradient_accumulation_steps: 2}]"
    config = tiny(schedule, stages, "model.max_position_embeddings=64")
    short, long = stage_plans(config, 128, document_tokens=16)
    assert (short.stage.steps, short.rows, short.tokens) == (6, 4, 6 * 4 * 32)
    assert (long.stage.steps, long.rows, long.tokens) == (4, 8, 4 * 8 * 64)
    assert short.rates == pytest.approx((0.4, 0.3))  # of steps 0 and 5 of 10
    assert short.targets == pytest.approx(short.tokens * 0.35)
    cost = training_flops(meta_model(config, 128).model)
    assert short.flops == cost.of(
        float(short.tokens), short.tokens * 16.0, short.targets, states=short.targets
    )
    (whole,) = stage_plans(tiny("trainer.masked_logits_only_loss=false"), 128, 16)
    assert whole.flops == cost.of(
        float(whole.tokens), whole.tokens * 16.0, whole.targets, states=float(whole.tokens)
    )
    assert long.memory.activations > short.memory.activations


@pytest.mark.parametrize("name", ["adamw", "muonclip"])
def test_weights_gradients_and_states_have_the_size_of_the_real_ones(name: str) -> None:
    config = tiny(f"optimizer.name={name}", "trainer.mixed_precision=no")
    (plan,) = stage_plans(config, 128, None)
    model = MaskedLM(config.model, 128, 0)
    optimizer = build_optimizer(config.optimizer, model.named_parameters(), 2)
    batch = synthetic_batch(4, 32, 32)
    hidden, labels = model.hidden(batch, torch.arange(9)), batch.input_ids[:9]
    masked_lm_loss(hidden, model.decoder_weight, labels).sum.backward()
    optimizer.step()
    parameters = list(model.parameters())
    assert plan.memory.weights == sum(one.nbytes for one in parameters)
    assert plan.memory.gradients == sum(one.grad.nbytes for one in parameters)
    states = [value for state in optimizer.state.values() for value in state.values()]
    assert plan.memory.optimizer == sum(value.nbytes for value in states if value.ndim)


@pytest.mark.parametrize("states", [300, 60])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_of_the_whole_model(
    precision: str, checkpointing: bool, states: int
) -> None:
    config = tiny(
        f"trainer.mixed_precision={precision}",
        f"trainer.gradient_checkpointing={str(checkpointing).lower()}",
    )
    counted = step_memory._kept(config, 3, 300, states)
    assert activation_bytes(config, 300, states) == pytest.approx(counted, rel=0.01)


def test_hours_follow_from_the_rate_and_the_devices() -> None:
    config = tiny("trainer.devices=2", "trainer.mixed_precision=bf16")
    assert hours_on("A100", 2 * 312e12 * 0.5 * 3600, config, mfu=0.5) == pytest.approx(1.0)


def test_a_measured_step_is_its_micro_batches_and_an_update() -> None:
    config = tiny("trainer.gradient_accumulation_steps=3")
    (plan,) = stage_plans(config, 128, None)
    ticks = count()
    timer = StepTimer(config, 128, lambda: float(next(ticks)))
    assert timer.seconds(plan, None) == 3 + 1  # each takes a tick
    quarter = replace(plan, flops=12e12 * 10)  # a step of more operations than are timed
    assert timer.seconds(quarter, None) == 3 * 4 + 1


def test_synthetic_documents_fill_rows_and_have_the_mean_length() -> None:
    batch = synthetic_batch(10, 128, 20)
    bounds = set(batch.cu_seqlens.tolist())
    assert set(range(0, 1281, 128)) <= bounds
    assert float(batch.lengths.double().mean()) == pytest.approx(20, rel=0.15)
    assert synthetic_batch(2, 32, 50).lengths.tolist() == [32, 32]


def test_the_command_shows_stages_memory_and_hours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--vocab-size", "256", "--mfu", "0.5"]) == 0
    output = capsys.readouterr()
    for text in ("stages", "activations", "logits", "H200", "50% of the datasheet's"):
        assert text in output.out
    assert "a vocabulary of 256" in output.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--mfu", "2"), "--mfu 2.0: must be above 0 and at most 1"),
        (("trainer.max_steps=0",), "trainer.max_steps=0: a plan needs a number of steps"),
        (("task=glue",), "task=glue: only pretraining can be planned"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    words: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, *words]) == 2
    assert problem in capsys.readouterr().err
