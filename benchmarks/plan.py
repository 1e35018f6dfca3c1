"""``python -m benchmarks.plan``: what ``neobert.tools.plan`` predicts against what runs take.

Each case is planned and then trained for some steps, in turns. Memory is the peak of what tensors
occupy during a step, as PyTorch's profiler counts it (the same that
``torch.cuda.max_memory_allocated`` says on a GPU). Time is of the processor, all threads.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import neobert
from benchmarks import harness
from neobert.batch import MaskedBatch
from neobert.config.root import Config
from neobert.console import show_messages
from neobert.library import train_config
from neobert.ops.kernels import cpu_has_bf16
from neobert.tools.plan import StepTimer, stage_plans

STEPS = 12
PROFILED = 3
"""Number of the step whose memory is measured; those after it are timed."""

COMMON = (
    *("experiment=quickstart", "trainer.disable_tqdm=true", f"trainer.max_steps={STEPS}"),
    *("trainer.eval_strategy=no", "trainer.eval_on_start=false", "trainer.save_strategy=no"),
)
CASES = {
    "quickstart": (),
    "fp32": ("trainer.mixed_precision=no",),
    "gradient checkpointing": ("trainer.gradient_checkpointing=true",),
    "8 rows": ("trainer.per_device_train_batch_size=8",),
    "AdamW, 256 × 6, two micro-batches": (
        *("model.hidden_size=256", "model.num_hidden_layers=6", "model.num_attention_heads=4"),
        *("model.intermediate_size=1024", "optimizer.name=adamw", "optimizer.lr=1e-3"),
        *("trainer.per_device_train_batch_size=16", "trainer.gradient_accumulation_steps=2"),
    ),
}


class Watch(Callback):
    """Peak of the memory of tensors in one step, and seconds of each step after it."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.seconds: list[float] = []
        self.tokens: list[float] = []
        self._start = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: MaskedBatch, batch_idx: int
    ) -> None:
        self.tokens.append(batch.inputs.num_tokens / len(batch.inputs.lengths))
        if batch_idx % trainer.accumulate_grad_batches:
            return
        if trainer.global_step == PROFILED:
            self._held = tensor_bytes(trainer, pl_module)
            self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profile.__enter__()
        self._start = time.process_time()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.global_step == PROFILED + 1:
            self._profile.__exit__(None, None, None)
            self.peak = self._held + highest(self._profile)
        elif trainer.global_step > PROFILED + 1:
            self.seconds.append(time.process_time() - self._start)


def tensor_bytes(trainer: Trainer, module: LightningModule) -> int:
    """Bytes of weights, gradients and optimizer states."""
    tensors: list[Tensor] = []
    for parameter in module.parameters():
        tensors += [parameter] if parameter.grad is None else [parameter, parameter.grad]
    for state in trainer.optimizers[0].state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def highest(recorded: profile) -> int:
    """Largest sum of bytes allocated and not yet freed while ``recorded`` ran."""
    results = cast("object", recorded.profiler).kineto_results  # type: ignore[attr-defined]
    now = peak = 0
    for event in results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def compare(config: Config, vocab_size: int) -> dict[str, float]:
    """Predicted and measured MiB and seconds per step of a run."""
    watch = Watch()
    train_config(config, [watch])
    documents = round(sum(watch.tokens) / len(watch.tokens))
    (plan,) = stage_plans(config, vocab_size, documents)
    predicted = StepTimer(config, vocab_size, time.process_time).seconds(plan, documents)
    return {
        "document_tokens": documents,
        "memory_predicted_mib": plan.memory.total / 2**20,
        "memory_measured_mib": watch.peak / 2**20,
        "seconds_predicted": predicted,
        "seconds_measured": median(watch.seconds),
    }


def main() -> None:
    """Measure, log and write ``plan.json``."""
    show_messages()
    results = {}
    # Planned as they run: a CPU without bf16 instructions trains in fp32 where bf16 is set.
    precision = () if cpu_has_bf16() else ("trainer.mixed_precision=no",)
    for name, words in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            output = f"trainer.output_dir={Path(folder) / 'run'}"
            figures = compare(neobert.compose([*COMMON, *words, *precision, output]), 8192)
        memory = figures["memory_predicted_mib"] / figures["memory_measured_mib"] - 1
        seconds = figures["seconds_predicted"] / figures["seconds_measured"] - 1
        errors = f"memory {memory:+.1%}, time {seconds:+.1%}"
        harness.log.info("%s: %s; %s", name, figures, errors)
        results[name] = figures
    harness.save(Path("docs/benchmarks/plan"), {"cases": results})


if __name__ == "__main__":
    main()
