"""Small runs of the real module under any strategy, and two ranks that run many of them.

Imported by the tests and by the processes they start, which are forked from a server that has the
imports done.
"""

import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from safetensors.torch import load_file
from torch import Tensor
from torch._dynamo.utils import counters

from neobert.batch import MaskedBatch, PackedBatch
from neobert.config.model import ModelConfig
from neobert.config.optimizer import MuonConfig, OptimizerConfig
from neobert.config.root import Config
from neobert.config.scheduler import SchedulerConfig
from neobert.config.trainer import TrainerConfig
from neobert.model.heads import MaskedLM
from neobert.optim.muon import MuonClip
from neobert.optim.schedule import resolve_schedule
from neobert.tasks.pretraining.module import PretrainingModule, PretrainingSettings
from neobert.training.callbacks.ema import EmaWeights
from neobert.training.checkpoint import FolderCheckpointIO
from neobert.training.compile import compile_if_enabled
from neobert.training.precision import resolve_precision, take_batches_as_they_are
from neobert.training.strategy import build_strategy, resolve_strategy
from neobert.training.summary import num_parameters
from neobert.training.trainer import quiet_libraries, weight_callbacks

VOCABULARY = 50
DOCUMENTS = 8
"""Documents of an optimizer step, all ranks and micro-batches together."""

STEPS = 10


@dataclass(frozen=True)
class Run:
    """What is trained and how."""

    strategy: str = "single"
    optimizer: str = "muonclip"
    precision: str = "no"
    accumulation: int = 2
    clip: float | None = 0.5
    steps: int = STEPS
    ngpt: bool = False
    muon: Mapping[str, object] = field(
        default_factory=lambda: {
            "clipping_threshold": 0.01,
            "clipping_interval": 1,
            "capture_last_microbatch_only": False,
        }
    )
    deepspeed: Mapping[str, object] = field(default_factory=dict)
    compiled: bool = False
    ema: float | None = None
    """Decay of averages; the checkpoint is then saved in the last step, with both weights."""

    poisoned_at: int | None = None
    """A step whose gradient is made NaN on the last rank."""

    dies_at: int | None = None
    """A step in which the last rank is killed."""


def config_of(run: Run) -> Config:
    muon = MuonConfig(**run.muon) if run.optimizer == "muonclip" else None  # type: ignore[arg-type]
    config = Config(
        model=ModelConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            ngpt=run.ngpt,
        ),
        optimizer=OptimizerConfig(
            name=run.optimizer, lr=0.02, weight_decay=0.1, betas=[0.9, 0.98], muon_config=muon
        ),
        trainer=TrainerConfig(
            strategy=run.strategy,
            devices=1 if run.strategy == "single" else 2,
            gradient_accumulation_steps=run.accumulation,
            gradient_clipping=run.clip,
            mixed_precision=run.precision,
            torch_compile=run.compiled,
            torch_compile_backend="aot_eager",
            ema_decay=run.ema,
            logging_steps=1,
            emulate_bf16=True,
            rank_timeout=60,
        ),
    )
    for key, value in run.deepspeed.items():
        setattr(config.deepspeed, key, value)
    assert config.problems() == []
    return config


class Module(PretrainingModule):
    """Orthogonalises in fp32 on every CPU: in bf16, rounding would blur what is compared."""

    poisoned_at: int | None = None
    dies_at: int | None = None

    def configure_optimizers(self):
        found = super().configure_optimizers()
        optimizer = found["optimizer"]
        if isinstance(optimizer, MuonClip):
            optimizer.dtype = torch.float32
        return found

    def training_step(self, batch, batch_idx):
        found = super().training_step(batch, batch_idx)
        last = self.trainer.global_rank == self.trainer.world_size - 1
        if self.trainer.global_step == self.dies_at and last:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trainer.global_step == self.poisoned_at and last:
            found["loss"] = found["loss"] * torch.nan
        return found


def build_module(run: Run) -> Module:
    config = config_of(run)
    torch.manual_seed(0)
    model = MaskedLM(config.model, VOCABULARY, 0)
    torch._dynamo.reset()
    counters.clear()
    compile_if_enabled(model.model, config.trainer, resolve_strategy(config, on_cuda=False))
    settings = PretrainingSettings(log_grad_norm=True)
    schedule = resolve_schedule(SchedulerConfig(warmup_steps=2), STEPS)
    module = Module(model, config.optimizer, schedule, settings)
    module.poisoned_at, module.dies_at = run.poisoned_at, run.dies_at
    return module


def micro_batches(run: Run, rank: int, ranks: int) -> list[MaskedBatch]:
    """This rank's micro-batches of all steps; documents and their targets differ in number."""
    size = DOCUMENTS // (run.accumulation * ranks)
    found = []
    for step in range(STEPS):
        documents = [_document(step * DOCUMENTS + number) for number in range(DOCUMENTS)]
        total = sum(len(targets) for _, targets in documents)
        for part in range(run.accumulation):
            start = (part * ranks + rank) * size
            found.append(_batch(documents[start : start + size], total))
    return found


def _document(number: int) -> tuple[list[int], list[int]]:
    draw = torch.Generator().manual_seed(number)
    length = 4 + number % 7
    ids = torch.randint(5, VOCABULARY, (length,), generator=draw).tolist()
    return ids, torch.randperm(length, generator=draw)[: 1 + number % 4].tolist()


def _batch(documents: list[tuple[list[int], list[int]]], total: int) -> MaskedBatch:
    inputs = PackedBatch.from_documents([ids for ids, _ in documents])
    bounds = inputs.cu_seqlens.tolist()
    places = [
        start + place
        for start, (_, found) in zip(bounds, documents, strict=False)
        for place in found
    ]
    positions = torch.tensor(places)
    return MaskedBatch(inputs, positions, inputs.input_ids[positions], len(places), total)


class Kept(Logger):
    """Every number that was logged, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, list[float]] = {}

    name = version = None

    def log_hyperparams(self, params) -> None:
        """Nothing to keep."""

    def log_metrics(self, metrics, step=None) -> None:
        for key, value in metrics.items():
            self.numbers.setdefault(key, []).append(float(value))


class Replicas(Callback):
    """After every step: whether all ranks hold the same weights, to the bit."""

    def __init__(self) -> None:
        self.same: list[bool] = []

    def on_train_batch_end(self, trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.world_size == 1:
            return
        mine = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        theirs = [torch.empty_like(mine) for _ in range(trainer.world_size)]
        dist.all_gather(theirs, mine)
        self.same.append(all(torch.equal(mine, other) for other in theirs))


class Norms(Callback):
    """The gradient's norm before clipping, at every step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.found.append(float(pl_module._grad_norm))


class Evaluates(Callback):
    """After every step: the averages become the weights, as for an evaluation, and go again."""

    def __init__(self, averages: list[EmaWeights]) -> None:
        self.averages = averages
        self.found: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, *args: object) -> None:
        for callback in self.averages:
            callback.on_validation_epoch_start(trainer, pl_module)
            whole = trainer.strategy.lightning_module_state_dict()
            self.found = [{name: tensor.clone() for name, tensor in whole.items()}]
            callback.on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        if self.averages:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / str(trainer.global_step))


class Loader:
    """Batches of a run from a step on; its place is part of a checkpoint."""

    def __init__(self, batches: list[MaskedBatch]) -> None:
        self.batches, self.done = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches[self.done :]:
            self.done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


def train(run: Run, folder: Path, resume: Path | None = None) -> dict[str, object]:
    """Train; what is returned are plain tensors and numbers, the weights whole."""
    quiet_libraries()
    torch.manual_seed(0)
    config = config_of(run)
    choice = resolve_strategy(config, on_cuda=False)
    ranks = choice.processes
    rank = int(os.environ["LOCAL_RANK"]) if ranks > 1 else 0
    kept, replicas, norms = Kept(), Replicas(), Norms()
    on_weights = weight_callbacks(config)
    evaluates = Evaluates([each for each in on_weights if isinstance(each, EmaWeights)])
    watches_replicas = run.strategy not in ("fsdp2", "deepspeed_zero3")
    trainer = Trainer(
        accelerator="cpu",
        strategy=build_strategy(config, choice),
        devices=choice.devices,
        precision=resolve_precision(config.trainer, on_cuda=False).lightning,  # type: ignore[arg-type]
        max_steps=run.steps,
        max_epochs=-1,
        accumulate_grad_batches=run.accumulation,
        gradient_clip_val=run.clip,
        callbacks=[
            *on_weights,
            norms,
            evaluates,
            *([replicas] if watches_replicas else []),
        ],
        plugins=[FolderCheckpointIO(lambda folder: None)],
        logger=kept,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    take_batches_as_they_are(trainer)
    module = build_module(run)
    loader = Loader(micro_batches(run, rank, ranks))
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    checkpoint = folder / str(trainer.global_step)
    if run.ema is None:
        trainer.save_checkpoint(checkpoint)
    return {
        "evaluated": evaluates.found,
        "checkpoint": str(checkpoint),
        "metrics": kept.numbers,
        "same": replicas.same,
        "norms": norms.found,
        "skipped": _skipped(trainer),
        "step": trainer.global_step,
        "graphs": counters["stats"]["unique_graphs"],
        "parameters": num_parameters(module.model),
    }


def _skipped(trainer: Trainer) -> int:
    group = trainer.optimizers[0].param_groups[0]
    return int(group.get("skipped_updates", 0))


def weights_of(found: Mapping[str, object]) -> dict[str, Tensor]:
    """The weights of the checkpoint that a run ended with."""
    return load_file(Path(str(found["checkpoint"])) / "model.safetensors")


def difference(one: Mapping[str, object], two: Mapping[str, object]) -> float:
    """Largest difference of two runs' weights, relative to the largest weight of each tensor."""
    left, right = weights_of(one), weights_of(two)
    assert left.keys() == right.keys()
    return max(
        float((left[name] - right[name]).abs().max() / right[name].abs().max()) for name in left
    )


LIMIT = 280
"""Seconds after which a pair of ranks is given up."""

Cases = dict[str, tuple[Run, str | None]]
"""What each case trains, and the case whose checkpoint it resumes from."""

Result = dict[str, object]


def rank_main(rank: int, port: int, folder: Path, cases: Cases) -> None:
    """One rank: every case in turn; what a case returns goes to ``<case>-<rank>.pt``."""
    os.environ.update(
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    for name, (run, before) in cases.items():
        resume = None
        if before is not None:
            resume = Path(str(torch.load(folder / f"{before}-{rank}.pt")["checkpoint"]))
        try:
            found = train(run, folder / name, resume)
        except BaseException:
            torch.save({"error": traceback.format_exc()}, folder / f"{name}-{rank}.pt")
            raise
        torch.save(found, folder / f"{name}-{rank}.pt")


def start_ranks(folder: Path, cases: Cases) -> list[ForkServerProcess]:
    """Two processes that run ``cases``; they find each other through a free port."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["neobert.training.trainer", "distributed_runs"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=rank_main, args=(r, port, folder, cases)) for r in (0, 1)]
    for process in ranks:
        process.start()
    return ranks


def run_on_two_ranks(folder: Path, cases: Cases) -> dict[str, Result]:
    """The first rank's result of every case; fails with the traceback of a rank that failed."""
    for process in start_ranks(folder, cases):
        process.join(LIMIT)
        process.kill()
    found: dict[str, Result] = {}
    for name in cases:
        for rank in (1, 0):
            file = folder / f"{name}-{rank}.pt"
            assert file.exists(), f"{name}: rank {rank} did not come to its end"
            found[name] = torch.load(file)
            assert "error" not in found[name], f"{name}, rank {rank}: {found[name]['error']}"
    return found
