"""Under every strategy a run of two processes is the run of one.

All cases of a kind run in one pair of ranks: one pair for DDP and FSDP2, one for DeepSpeed, whose
import changes the process. The table of docs/distributed.md is made of their results.
"""

import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distributed_runs import (
    STEPS,
    Cases,
    Result,
    Run,
    difference,
    run_on_two_ranks,
    train,
    weights_of,
)

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
START, END = "<!-- table: written by the tests -->\n", "<!-- end of table -->"
DECAY = 0.75
OPTIMIZERS = ("adamw", "adam", "muonclip")
TORCH = ("ddp", "fsdp2")
ZERO = tuple(f"deepspeed_zero{stage}" for stage in range(4))
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the extra deepspeed is not installed"
)
ALL = [*TORCH, *(pytest.param(name, marks=needs_deepspeed) for name in ZERO)]

FP32 = 5e-5
"""Relative to the largest weight of a tensor, after ten steps: sums in another order."""

BF16 = 0.2
"""The same, as a norm: bf16 has 8 bits, and ZeRO rounds the first weights to it."""

Alone = Callable[[Run], Result]
Together = dict[str, Result]

POISON = Run(muon={**Run().muon, "detect_anomalies": True}, poisoned_at=4)
NGPT = Run(ngpt=True, muon={**Run().muon, "clipping_threshold": 1.0})


def cases_of(strategy: str) -> Cases:
    """Every optimizer; bf16; a run that stops half-way and resumes."""
    found: Cases = {
        f"{strategy} {name}": (Run(strategy, optimizer=name), None) for name in OPTIMIZERS
    }
    for name in ("adamw", "muonclip"):
        run = Run(strategy, optimizer=name, precision="bf16")
        found[f"{strategy} {name} bf16"] = (run, None)
    found[f"{strategy} half"] = (Run(strategy, steps=STEPS // 2), None)
    found[f"{strategy} resumed"] = (Run(strategy), f"{strategy} half")
    return found


def cases_of_averages(strategy: str) -> Cases:
    """Averages of the weights in a run; in one that stops half-way and resumes; in bf16."""
    run, bf16 = Run(strategy, ema=DECAY), Run(strategy, optimizer="adamw", precision="bf16")
    return {
        f"{strategy} muonclip": (Run(strategy), None),
        f"{strategy} adamw bf16": (bf16, None),
        f"{strategy} ema": (run, None),
        f"{strategy} ema half": (replace(run, steps=STEPS // 2), None),
        f"{strategy} ema resumed": (run, f"{strategy} ema half"),
        f"{strategy} ema bf16": (replace(bf16, ema=DECAY), None),
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The same run in one process; computed once for each."""
    known: dict[str, Result] = {}
    folder = tmp_path_factory.mktemp("alone")

    def result(run: Run) -> Result:
        run = replace(run, strategy="single", deepspeed={})
        if str(run) not in known:
            known[str(run)] = train(run, folder / str(len(known)))
        return known[str(run)]

    return result


@pytest.fixture(scope="module")
def torch_ranks(tmp_path_factory: pytest.TempPathFactory) -> Together:
    cases: Cases = {}
    for strategy in TORCH:
        cases |= cases_of(strategy)
        cases[f"{strategy} poisoned"] = (replace(POISON, strategy=strategy), None)
        cases[f"{strategy} ngpt"] = (replace(NGPT, strategy=strategy), None)
        cases[f"{strategy} compiled"] = (Run(strategy, compiled=True), None)
    cases["ddp to fsdp2"] = (Run("fsdp2"), "ddp half")
    cases["fsdp2 to ddp"] = (Run("ddp"), "fsdp2 half")
    cases["ddp bf16-true"] = (Run("ddp", precision="bf16-true"), None)
    return run_on_two_ranks(tmp_path_factory.mktemp("torch"), cases)


@pytest.fixture(scope="module")
def zero_ranks(tmp_path_factory: pytest.TempPathFactory) -> Together:
    cases: Cases = {}
    for strategy in ZERO:
        cases |= cases_of(strategy)
    for before, after in zip(ZERO, (*ZERO[1:], "ddp"), strict=True):
        cases[f"{before} to {after}"] = (Run(after), f"{before} half")
    cases["offloaded"] = (Run(ZERO[2], deepspeed={"offload_optimizer": True}), None)
    everything = {"offload_optimizer": True, "offload_parameters": True}
    cases["all offloaded"] = (Run(ZERO[3], deepspeed=everything), None)
    folder = tmp_path_factory.mktemp("zero")
    # Else parameters as small as these stay whole on every rank between two steps.
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
    (folder / "ds.json").write_text(json.dumps({"zero_optimization": zero}))
    own = {"config_file": str(folder / "ds.json")}
    cases["nothing kept whole"] = (Run(ZERO[3], deepspeed=own), None)
    return run_on_two_ranks(folder, cases)


@pytest.fixture(scope="module")
def torch_averages(tmp_path_factory: pytest.TempPathFactory) -> Together:
    cases = {name: case for kind in TORCH for name, case in cases_of_averages(kind).items()}
    return run_on_two_ranks(tmp_path_factory.mktemp("torch"), cases)


@pytest.fixture(scope="module")
def zero_averages(tmp_path_factory: pytest.TempPathFactory) -> Together:
    cases = {name: case for kind in ZERO for name, case in cases_of_averages(kind).items()}
    return run_on_two_ranks(tmp_path_factory.mktemp("zero"), cases)


@pytest.fixture
def averaged(request: pytest.FixtureRequest, strategy: str) -> Together:
    """The pair of ranks that has run the cases of ``strategy`` with averages."""
    kind = "torch_averages" if strategy in TORCH else "zero_averages"
    return request.getfixturevalue(kind)


@pytest.fixture
def ranks(request: pytest.FixtureRequest, strategy: str) -> Together:
    """The pair of ranks that has run the cases of ``strategy``."""
    kind = "torch_ranks" if strategy in TORCH else "zero_ranks"
    return request.getfixturevalue(kind)


@pytest.mark.slow
@pytest.mark.proves("trainer.devices", "trainer.strategy")
@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_processes_train_as_one_with_the_double_batch(
    ranks: Together, alone: Alone, strategy: str, optimizer: str
) -> None:
    run = Run(strategy, optimizer=optimizer)
    assert difference(ranks[f"{strategy} {optimizer}"], alone(run)) < FP32


@pytest.mark.slow
@pytest.mark.proves(
    "optimizer.muon_config.enable_clipping", "optimizer.muon_config.capture_last_microbatch_only"
)
@pytest.mark.parametrize("strategy", ALL)
def test_clipping_acts_on_the_maximum_over_all_ranks_and_micro_batches(
    ranks: Together, alone: Alone, strategy: str
) -> None:
    here, one = ranks[f"{strategy} muonclip"]["metrics"], alone(Run(strategy))["metrics"]
    assert sum(here["train/clipped_heads"]) > STEPS / 2
    assert here["train/clipped_heads"] == one["train/clipped_heads"]
    for layer in range(2):
        name = f"train/max_attention_logit/layer_{layer}"
        assert here[name] == pytest.approx(one[name], rel=1e-3)


def trained(found: Result) -> dict[str, torch.Tensor]:
    """The weights that the optimizer continues from, beside the averages in a checkpoint."""
    state = torch.load(Path(str(found["checkpoint"])) / "trainer_state.pt", weights_only=True)
    return {
        name.removeprefix("model."): value for name, value in state["current_model_state"].items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ALL)
def test_each_rank_averages_the_weights_that_it_owns(
    averaged: Together, alone: Alone, strategy: str
) -> None:
    found, one = averaged[f"{strategy} ema"], alone(Run(strategy, ema=DECAY))
    assert difference(found, one) < FP32
    averages, plain = weights_of(found), weights_of(averaged[f"{strategy} muonclip"])
    weights = trained(found)
    assert all(torch.equal(plain[name], weights[name]) for name in plain), "swapping left a trace"
    assert not torch.equal(averages["model.encoder.weight"], weights["model.encoder.weight"])
    (evaluated,) = found["evaluated"]
    for name, value in averages.items():
        assert torch.equal(evaluated[f"model.{name}"], value), name
    bf16, same = trained(averaged[f"{strategy} ema bf16"]), averaged[f"{strategy} adamw bf16"]
    assert all(torch.equal(bf16[name], value) for name, value in weights_of(same).items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ALL)
def test_averages_resume_to_the_bit(averaged: Together, strategy: str) -> None:
    straight, resumed = averaged[f"{strategy} ema"], averaged[f"{strategy} ema resumed"]
    for read in (weights_of, trained):
        one, two = read(straight), read(resumed)
        assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replicas_are_equal_to_the_bit_after_every_micro_batch(
    ranks: Together, strategy: str, optimizer: str
) -> None:
    same = ranks[f"{strategy} {optimizer}"]["same"]
    sharded = strategy in ("fsdp2", "deepspeed_zero3")  # there are no replicas
    assert len(same) == (0 if sharded else STEPS * 2)
    assert all(same)


@pytest.mark.slow
@pytest.mark.proves("trainer.gradient_clipping", "trainer.log_grad_norm")
@pytest.mark.parametrize("strategy", ALL)
def test_the_norm_that_clipping_sees_is_that_of_the_whole_gradient(
    ranks: Together, alone: Alone, strategy: str
) -> None:
    here, one = ranks[f"{strategy} muonclip"]["norms"], alone(Run(strategy))["norms"]
    assert max(one) > 2 * 0.5  # so that clipping had work
    assert here == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("optimizer", ["adamw", "muonclip"])
def test_bf16_keeps_fp32_weights_and_states(
    ranks: Together, alone: Alone, strategy: str, optimizer: str
) -> None:
    found = ranks[f"{strategy} {optimizer} bf16"]
    one = weights_of(alone(Run(optimizer=optimizer)))
    for name, weight in weights_of(found).items():
        assert weight.dtype == torch.float32
        assert (weight - one[name]).norm() < BF16 * one[name].norm()
    state = torch.load(Path(found["checkpoint"]) / "trainer_state.pt")["optimizer_states"][0]
    kinds = {value.dtype for values in state["state"].values() for value in values.values()}
    assert kinds == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ALL)
def test_resume_under_the_same_strategy_is_exact_to_the_bit(ranks: Together, strategy: str) -> None:
    resumed, straight = (
        weights_of(ranks[f"{strategy} resumed"]),
        weights_of(ranks[f"{strategy} muonclip"]),
    )
    for name, weight in straight.items():
        assert torch.equal(resumed[name], weight), name


CHANGES = [
    ("ddp", "fsdp2"),
    ("fsdp2", "ddp"),
    *(
        pytest.param(before, after, marks=needs_deepspeed)
        for before, after in zip(ZERO, (*ZERO[1:], "ddp"), strict=True)
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "after"), CHANGES)
def test_a_run_resumes_under_another_strategy(
    ranks: Together, alone: Alone, strategy: str, after: str
) -> None:
    assert difference(ranks[f"{strategy} to {after}"], alone(Run())) < FP32


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ALL)
def test_a_run_of_two_processes_resumes_in_one(
    ranks: Together, alone: Alone, strategy: str, tmp_path: Path
) -> None:
    half = Path(str(ranks[f"{strategy} half"]["checkpoint"]))
    assert difference(train(Run(), tmp_path, half), alone(Run())) < FP32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "case"),
    [
        ("fsdp2", "fsdp2 muonclip"),
        pytest.param("deepspeed_zero3", "nothing kept whole", marks=needs_deepspeed),
    ],
)
def test_the_summary_counts_all_parameters_wherever_they_lie(
    ranks: Together, alone: Alone, case: str
) -> None:
    expected = sum(weight.numel() for weight in weights_of(alone(Run())).values())
    assert ranks[case]["parameters"] == expected


@pytest.mark.slow
@pytest.mark.parametrize("strategy", TORCH)
def test_a_non_finite_gradient_of_one_rank_is_skipped_by_all(
    ranks: Together, alone: Alone, strategy: str
) -> None:
    found = ranks[f"{strategy} poisoned"]
    assert found["skipped"] == 1
    assert difference(found, alone(POISON)) < FP32


@pytest.mark.slow
@pytest.mark.parametrize("strategy", TORCH)
def test_ngpt_stays_on_the_sphere(ranks: Together, alone: Alone, strategy: str) -> None:
    assert difference(ranks[f"{strategy} ngpt"], alone(NGPT)) < FP32


@pytest.mark.slow
def test_bf16_true_keeps_weights_in_bf16(torch_ranks: Together) -> None:
    kinds = {weight.dtype for weight in weights_of(torch_ranks["ddp bf16-true"]).values()}
    assert kinds == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "graphs"), [("ddp", 1), ("fsdp2", 2)])
def test_compiled_training_is_eager_training(
    torch_ranks: Together, strategy: str, graphs: int
) -> None:
    """FSDP2's blocks, each compiled by itself, share one graph; the last one leaves work out."""
    compiled, eager = torch_ranks[f"{strategy} compiled"], torch_ranks[f"{strategy} muonclip"]
    assert eager["graphs"] == 0
    assert compiled["graphs"] == graphs
    assert difference(compiled, eager) < FP32


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("case", ["offloaded", "all offloaded", "nothing kept whole"])
def test_where_weights_lie_changes_nothing(zero_ranks: Together, alone: Alone, case: str) -> None:
    assert difference(zero_ranks[case], alone(Run())) < FP32


@pytest.mark.slow
@needs_deepspeed
def test_the_table_of_the_documentation_says_what_was_measured_here(
    torch_ranks: Together, zero_ranks: Together, alone: Alone
) -> None:
    """``NEOBERT_WRITE_DOCS=1`` writes it anew."""
    table = "| strategy | " + " | ".join(f"{one}, fp32" for one in OPTIMIZERS)
    table += " | adamw, bf16 | muonclip, bf16 | resumes |\n" + "|---" * 7 + "|\n"
    for strategy in (*TORCH, *ZERO):
        found = torch_ranks if strategy in TORCH else zero_ranks
        cells = [
            _cell(difference(found[f"{strategy} {one}"], alone(Run(optimizer=one))) < FP32)
            for one in OPTIMIZERS
        ]
        cells += [
            _cell(_distance(found[f"{strategy} {one} bf16"], alone(Run(optimizer=one))) < BF16)
            for one in ("adamw", "muonclip")
        ]
        resumed = difference(found[f"{strategy} resumed"], found[f"{strategy} muonclip"]) == 0
        table += f"| `{strategy}` | " + " | ".join([*cells, _cell(resumed)]) + " |\n"
    before, _, rest = PAGE.read_text().partition(START)
    written, _, after = rest.partition(END)
    if os.environ.get("NEOBERT_WRITE_DOCS"):
        PAGE.write_text(f"{before}{START}{table}{END}{after}")
        written = table
    assert written == table


def _cell(works: bool) -> str:
    return "yes" if works else "no"


def _distance(one: Result, two: Result) -> float:
    left, right = weights_of(one), weights_of(two)
    return max(float((left[name] - right[name]).norm() / right[name].norm()) for name in left)
