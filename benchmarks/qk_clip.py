"""Cost of measuring attention logits: ``python -m benchmarks.qk_clip --output FILE``.

Trains on random documents with the product's own loop, MuonClip and ``clipping_interval=2``: every
other step measures all attention logits and clips. Each row is one document, so that the share
found is an upper bound: shorter ones have fewer logits. In bf16 where the machine has it. Seconds
are of the processor on a CPU, of the clock on a GPU.

``--compiled`` times forward and backward pass of a compiled model instead: without QK-clip, with a
graph that can measure but does not, and while it measures, in turns.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import ParamSpec

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from benchmarks import harness
from neobert.batch import MaskedBatch, PackedBatch
from neobert.config.optimizer import MuonConfig, OptimizerConfig
from neobert.config.scheduler import SchedulerConfig
from neobert.console import show_messages
from neobert.model.compile_encoder import compile_encoder
from neobert.model.heads import MaskedLM
from neobert.model.self_attention import SelfAttention
from neobert.ops.kernels import cpu_has_bf16
from neobert.optim.schedule import resolve_schedule
from neobert.tasks.pretraining.module import PretrainingModule, PretrainingSettings
from neobert.training.callbacks.clip_heads import QKClip
from neobert.training.cpu import tune_cpu
from neobert.training.precision import take_batches_as_they_are
from neobert.training.trainer import quiet_libraries

P = ParamSpec("P")

VOCABULARY = 8192
MASKED = 0.2
WARM_UP = 4
"""Steps that are not counted."""


class Stopwatch(Callback):
    """Seconds of each step and each measurement; last among the callbacks, to count theirs."""

    def __init__(self, on_cuda: bool, clip: QKClip) -> None:
        self.on_cuda = on_cuda
        self.clip = clip
        self.seconds: list[float] = []
        self.measurements: list[float] = []
        self._since = self._measuring = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clip._clip = self._timed(self.clip._clip)  # type: ignore[method-assign]
        for layer in pl_module.modules():
            if isinstance(layer, SelfAttention):
                layer._record = self._timed(layer._record)  # type: ignore[method-assign]
        self._since = harness.now(self.on_cuda)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        now = harness.now(self.on_cuda)
        self.seconds.append(now - self._since)
        if self._measuring:
            self.measurements.append(self._measuring)
        self._since, self._measuring = now, 0.0

    def _timed(self, work: Callable[P, None]) -> Callable[P, None]:
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            start = harness.now(self.on_cuda)
            work(*args, **kwargs)
            self._measuring += harness.now(self.on_cuda) - start

        return run


def main(argv: list[str] | None = None) -> None:
    """Measure each shape and write the figures."""
    parser = harness.command("qk_clip", __doc__, rounds=12, output=None)
    parser.add_argument("--shapes", default="192x4,256x6,768x2", help="WIDTHxLAYERS,…")
    parser.add_argument("--row-length", type=int, default=128)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--compiled", action="store_true", help="time a compiled model")
    options = parser.parse_args(argv)
    show_messages()
    tune_cpu()
    size = options.rows, options.row_length
    measured = measure_compiled if options.compiled else measure
    shapes = {shape: measured(shape, *size, options.rounds) for shape in options.shapes.split(",")}
    settings = {"rows": options.rows, "row_length": options.row_length, "rounds": options.rounds}
    machine = {"threads": torch.get_num_threads(), "bf16": cpu_has_bf16()}
    harness.save(options.output, {**machine, **settings, "shapes": shapes})


def measure(shape: str, rows: int, row_length: int, rounds: int) -> dict[str, float]:
    """Median seconds of a step that measures nothing and of a measurement, and their ratio.

    A measurement, clipping included, is timed by itself: what other programs do to a step is more
    than what it adds. The median of the steps that measure is given for comparison.
    """
    quiet_libraries()
    width, layers = harness.shape_of(shape)
    on_cuda = torch.cuda.is_available()
    steps = WARM_UP + 2 * rounds
    muon = MuonConfig(clipping_interval=2)
    clip = QKClip(muon, log_every=steps)
    watch = Stopwatch(on_cuda, clip)
    trainer = Trainer(
        accelerator="cuda" if on_cuda else "cpu",
        devices=1,
        precision="bf16-mixed" if on_cuda or cpu_has_bf16() else "32-true",
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        callbacks=[clip, watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    take_batches_as_they_are(trainer)
    batches = [_batch(rows, row_length, number) for number in range(steps)]
    loader: DataLoader[MaskedBatch] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(_module(width, layers, row_length, muon), loader)
    counted = watch.seconds[WARM_UP:]
    measuring, without = (statistics.median(counted[first::2]) for first in (0, 1))
    measurement = statistics.median(watch.measurements[-rounds:])
    return {
        "seconds without": round(without, 6),
        "seconds with": round(measuring, 6),
        "seconds of the measurement": round(measurement, 6),
        "percent": round(100 * measurement / without, 2),
    }


def measure_compiled(shape: str, rows: int, row_length: int, rounds: int) -> dict[str, float]:
    """Median seconds of a compiled forward and backward pass by what QK-clip does in it; the
    percentages are medians of the ratios within a round.
    """
    width, layers = harness.shape_of(shape)
    on_cuda = torch.cuda.is_available()
    device = "cuda" if on_cuda else "cpu"
    bf16 = on_cuda or cpu_has_bf16()
    model = _module(width, layers, row_length, MuonConfig()).model.to(device).train()
    batch = _batch(rows, row_length, 0).to(device)
    compile_encoder(model.model, "inductor")

    def step(measurable: bool, record: bool) -> float:
        for layer in model.model.attention_layers():
            layer.record_max_logits, layer.measurable = record, measurable
        model.zero_grad()
        start = harness.now(on_cuda)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            hidden = model.hidden(batch.inputs)
        hidden.float().square().mean().backward()
        return harness.now(on_cuda) - start

    kinds = {"without": (False, False), "not measuring": (True, False), "measuring": (True, True)}
    variants = {name: partial(step, *kind) for name, kind in kinds.items()}
    found = harness.in_turns(variants, rounds, WARM_UP)
    return {
        **{f"seconds {name}": round(statistics.median(times), 6) for name, times in found.items()},
        **{
            f"percent {name}": round(100 * harness.median_ratio(times, found["without"]) - 100, 2)
            for name, times in found.items()
            if name != "without"
        },
    }


def _module(width: int, layers: int, row_length: int, muon: MuonConfig) -> PretrainingModule:
    config = harness.model_config(width, layers, max_position_embeddings=row_length)
    model = MaskedLM(config, VOCABULARY, 0)
    schedule = resolve_schedule(SchedulerConfig(warmup_steps=10), 1000)
    settings = PretrainingSettings()
    optimizer = OptimizerConfig(name="muonclip", muon_config=muon)
    return PretrainingModule(model, optimizer, schedule, settings)


def _batch(rows: int, row_length: int, number: int) -> MaskedBatch:
    draw = torch.Generator().manual_seed(number)
    ids = torch.randint(5, VOCABULARY, (rows, row_length), generator=draw)
    inputs = PackedBatch.from_documents(ids.tolist())
    targets = int(MASKED * ids.numel())
    positions = torch.randperm(ids.numel(), generator=draw)[:targets].sort().values
    return MaskedBatch(inputs, positions, inputs.input_ids[positions], targets, targets)


if __name__ == "__main__":
    main()
