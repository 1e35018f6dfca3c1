"""``python -m benchmarks.time_to_loss``: how long until the loss that HF's ``Trainer`` ends with?

Hugging Face's ``Trainer`` trains ModernBERT on the documents, vocabulary and share of masks of
``experiment=quickstart``: chunks of 128 tokens, AdamW, by default 342 steps of 8,192 tokens at
2e-3. Then each variant of ours trains, a real ``python -m neobert.train`` in a process of its own.
Both are evaluated on the same masked tokens, those of the quickstart's held-out countries. Seconds
are of training; evaluations are left out. What ``--output`` has already is not measured again.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from benchmarks import harness
from benchmarks.peers import Job, Rows, build_model, make_rows, write_documents
from neobert.batch import IGNORE, MaskedBatch
from neobert.config.compose import compose_config
from neobert.console import show_messages
from neobert.files import read_json
from neobert.ops.kernels import cpu_has_bf16
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.training.cpu import keep_freed_memory

PEER = "HF Trainer, ModernBERT"
VARIANTS: dict[str, tuple[str, ...]] = {
    "the quickstart": (),
    "the quickstart, 350 steps": ("trainer.max_steps=350",),
    "the quickstart's first recipe": (
        *("model=neobert_tiny", "trainer.per_device_train_batch_size=32"),
        *("trainer.max_steps=830", "optimizer.lr=1e-2", "scheduler.name=cosine"),
        "optimizer.muon_config.norm_factor=match_rms_adamw",
    ),
}
"""Settings of each of our runs beside ``experiment=quickstart``."""

ROW = 128
Curve = list[tuple[float, float]]
"""Seconds of training and the loss of the evaluation after them, evaluation after evaluation."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What the peer trains."""

    shape: str
    """Width and layers, written as ``192x4``."""

    rows: int
    steps: int
    learning_rate: float
    eval_steps: int


def main(argv: list[str] | None = None) -> int:
    """Measure, log and write; with ``--peer`` the peer's process."""
    parser = _options()
    options = parser.parse_args(argv)
    budget = Budget(
        options.shape, options.rows, options.steps, options.learning_rate, options.eval_steps
    )
    if options.peer:
        return harness.answer({"curve": peer_curve(Path(options.peer), budget, options.settings)})
    show_messages()
    stored: Any = read_json(options.output) if options.output.is_file() else {"curves": {}}
    if stored.get("peer", asdict(budget)) != asdict(budget):
        parser.error(f"--output {options.output} has a peer of other settings: {stored['peer']}")
    variants = {name: words for name, words in VARIANTS.items() if re.search(options.only, name)}
    with tempfile.TemporaryDirectory(prefix="neobert-bench-") as scratch:
        runs = {PEER: partial(_peer, Path(scratch), budget, options.settings)}
        for name, words in variants.items():
            runs[name] = partial(_ours, Path(scratch), (*words, *options.settings), options)
        missing = {name: run for name, run in runs.items() if name not in stored["curves"]}
        curves = stored["curves"] | harness.in_turns(missing, options.rounds)
    figures = {
        "peer": asdict(budget),
        "variants": {name: list(words) for name, words in VARIANTS.items() if name in curves},
        "curves": curves,
        "seconds_to_the_peers_loss": seconds_to_loss(curves),
    }
    harness.save(options.output, figures)
    return 0


def _options() -> argparse.ArgumentParser:
    output = Path("time_to_loss.json")
    parser = harness.command("time_to_loss", __doc__, rounds=1, output=output)
    parser.add_argument("--shape", default="192x4", help="width x layers of the peer")
    parser.add_argument("--rows", type=int, default=64, help=f"of {ROW} tokens in a peer's step")
    parser.add_argument("--steps", type=int, default=342, help="of the peer")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="of the peer")
    parser.add_argument("--eval-steps", type=int, default=38, help="of the peer")
    parser.add_argument("--our-eval-steps", type=int, default=20)
    parser.add_argument("--only", default="", help="a pattern: which of our variants")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="*", help="of our runs, and of the evaluation data")
    return parser


def _peer(scratch: Path, budget: Budget, settings: list[str]) -> Curve:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(budget).items()]
    figures = harness.in_fresh_process("time_to_loss", *words, f"--peer={scratch}", *settings)
    return [(seconds, loss) for seconds, loss in figures["curve"]]


def _ours(scratch: Path, settings: tuple[str, ...], options: argparse.Namespace) -> Curve:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        output = Path(folder) / "run"
        harness.train(
            *("experiment=quickstart", f"trainer.output_dir={output}"),
            *(
                f"trainer.{name}={options.our_eval_steps}"
                for name in ("eval_steps", "logging_steps")
            ),
            "trainer.save_strategy=no",
            *settings,
        )
        return our_curve(output)


def our_curve(run: Path) -> Curve:
    """The evaluations of a run's ``metrics.csv``, after the seconds of its training windows."""
    curve, seconds, tokens = [], 0.0, 0.0
    for row in harness.logged_steps(run, "step"):
        if row["train/tokens_per_sec"]:
            seen = float(row["train/tokens"])
            seconds += (seen - tokens) / float(row["train/tokens_per_sec"])
            tokens = seen
        if row["eval/loss"] and int(row["step"]):
            curve.append((seconds, float(row["eval/loss"])))
    return curve


def seconds_to_loss(curves: dict[str, list[Curve]]) -> dict[str, list[float | None]]:
    """Seconds of each round until the peer's last loss of that round; ``None``: not reached."""
    return {
        name: [
            next((seconds for seconds, loss in curve if loss <= peer[-1][1]), None)
            for curve, peer in zip(found, curves[PEER], strict=True)
        ]
        for name, found in curves.items()
    }


class Evaluate(TrainerCallback):
    """Evaluates every so many steps, and leaves that out of the time."""

    def __init__(self, batches: list[MaskedBatch], every: int, bf16: bool) -> None:
        self.batches, self.every, self.bf16 = batches, every, bf16
        self.curve: Curve = []
        self._evaluating = self._started = 0.0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self._started = time.perf_counter()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: object,
    ) -> None:
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        assert model is not None
        now = time.perf_counter()
        seconds = now - self._started - self._evaluating
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            self.curve.append((seconds, mean_loss(model, self.batches)))
        self._evaluating += time.perf_counter() - now


@torch.no_grad()
def mean_loss(model: PreTrainedModel, batches: list[MaskedBatch]) -> float:
    """Mean cross-entropy (nats) of the batches' masked tokens, a batch row being one sequence."""
    model.eval()
    total = count = 0.0
    for batch in batches:
        for ids, labels in padded_rows(batch):
            loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
            targets = int((labels != IGNORE).sum())
            total, count = total + float(loss) * targets, count + targets
    model.train()
    return total / count


def padded_rows(batch: MaskedBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and labels (16, ``ROW``) of a packed batch, as models of transformers take them."""
    labels = torch.full_like(batch.inputs.input_ids, IGNORE)
    labels[batch.positions] = batch.labels
    pairs = zip(
        batch.inputs.input_ids.view(-1, ROW).split(16), labels.view(-1, ROW).split(16), strict=True
    )
    return (pair for pair in pairs if int((pair[1] != IGNORE).sum()))


def peer_curve(scratch: Path, budget: Budget, settings: list[str]) -> Curve:
    """Train the peer and evaluate it on the batches of ours."""
    keep_freed_memory()
    torch.manual_seed(0)
    config = compose_config(["experiment=quickstart", *settings])
    data = PretrainingDataModule(config)
    data.setup("fit")
    loader = data.val_dataloader()
    assert not isinstance(loader, list), "one evaluation set"
    bf16 = cpu_has_bf16()
    evaluate = Evaluate(list(loader), budget.eval_steps, bf16)
    masked = config.datacollator.mlm_probability
    job = _job(scratch, budget, masked, bf16)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.tokenizer)
    assert tokenizer.get_vocab() == data.tokenizer.tokenizer.get_vocab(), "the losses are of one"
    trainer = Trainer(
        model=build_model(job),
        args=TrainingArguments(
            output_dir=str(scratch / "peer"),
            per_device_train_batch_size=budget.rows,
            max_steps=budget.steps,
            learning_rate=budget.learning_rate,
            warmup_steps=round(0.05 * budget.steps),
            bf16=bf16,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=Rows(make_rows(job)),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=masked),
        callbacks=[evaluate],
    )
    trainer.train()
    return evaluate.curve


def _job(scratch: Path, budget: Budget, mlm_probability: float, bf16: bool) -> Job:
    width, layers = harness.shape_of(budget.shape)
    model = harness.model_config(width, layers)
    return Job(
        model="modernbert",
        mode=f"chunk-{ROW}",
        rows=budget.rows,
        windows=budget.steps,
        bf16=bf16,
        use_cpu=True,
        hidden_size=model.hidden_size,
        layers=model.num_hidden_layers,
        heads=model.num_attention_heads,
        intermediate_size=model.intermediate_size,
        mlm_probability=mlm_probability,
        by_cpu_time=False,
        **write_documents(scratch, "factbook", 8192),
    )


if __name__ == "__main__":
    raise SystemExit(main())
