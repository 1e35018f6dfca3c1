"""The Lightning Trainer that the ``trainer`` section describes."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from transformers import PreTrainedTokenizerBase

from neobert.config.optimizer import MuonConfig
from neobert.config.root import Config
from neobert.config.store import save_config
from neobert.config.trainer import TrainerConfig
from neobert.console import get_logger
from neobert.files import write_json
from neobert.model.encoder import Encoder
from neobert.model.weight_files import TOKENIZER_INFO
from neobert.optim.groups import MUONCLIP
from neobert.training.callbacks.batch_digest import BatchDigests
from neobert.training.callbacks.checkpointer import Checkpointer, save_plan
from neobert.training.callbacks.clip_heads import QKClip
from neobert.training.callbacks.ema import EmaWeights
from neobert.training.callbacks.interrupt import Interrupt
from neobert.training.callbacks.ngpt_weights import UnitNorm
from neobert.training.callbacks.progress import ProgressBar
from neobert.training.callbacks.reproduce import SeedEachMicroBatch
from neobert.training.callbacks.stop_early import StopEarly
from neobert.training.callbacks.throughput import PROFILE, Throughput, build_profiler
from neobert.training.callbacks.train_metrics import TrainMetrics
from neobert.training.checkpoint import FINGERPRINT
from neobert.training.checkpoint_thread import ThreadedCheckpointIO
from neobert.training.logger import SaveLogs, build_loggers
from neobert.training.precision import resolve_precision, set_tf32, take_batches_as_they_are
from neobert.training.run_folder import RunFolder
from neobert.training.strategy import StrategyChoice, build_strategy

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """The lengths of a run, in optimizer steps: derived once from settings and data."""

    total_steps: int
    steps_per_epoch: int
    score: str | None = None
    """Metric of a fine-tuning task that is better when larger: it tells the best model, unless
    ``trainer.metric_for_best_model`` names another. Such runs evaluate in every epoch."""

    resume_step: int | None = None
    """Step of the checkpoint that the run continues from."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a checkpoint says about its model beside the weights."""

    tokenizer: PreTrainedTokenizerBase
    tokenizer_info: dict[str, object]
    fingerprint: dict[str, object]
    """What a resumed run must share: data, tokenizer, seed, batch, schedule, by setting."""

    encoders: Sequence[Encoder] = ()
    """Whose rotary positions are the model's at the time of the checkpoint."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A Trainer and the callbacks that a task asks afterwards."""

    trainer: Trainer
    metrics: TrainMetrics
    checkpointer: Checkpointer
    throughput: Throughput


ALWAYS: dict[str, Any] = {
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}
"""Settings of Lightning's Trainer that no run changes: our own callbacks and loaders do this."""


def build_trainer(
    config: Config,
    run: RunFolder,
    plan: Plan,
    card: ModelCard,
    strategy: StrategyChoice,
    callbacks: Sequence[Callback] = (),
) -> Parts:
    """Build the Trainer; ``callbacks`` run first."""
    settings = config.trainer
    quiet_libraries()
    metrics = TrainMetrics(settings.logging_steps, settings.log_weight_norms)
    throughput = Throughput(metrics, build_profiler(settings.profiler, run.path / PROFILE))
    interrupt = Interrupt()
    saving = save_plan(settings, plan.steps_per_epoch, plan.score)
    card_writer = partial(_card_writer, config, card)
    checkpoint_io = ThreadedCheckpointIO(card_writer, strategy.saves_from_gpu)
    checkpointer = Checkpointer(saving, run.checkpoints, checkpoint_io, interrupt)
    trainer = Trainer(
        accelerator="cuda" if strategy.on_cuda else "cpu",
        strategy=build_strategy(config, strategy),
        devices=strategy.devices,
        num_nodes=strategy.num_nodes,
        precision=_precision(settings, strategy.on_cuda),  # type: ignore[arg-type]
        max_steps=plan.total_steps,
        accumulate_grad_batches=settings.gradient_accumulation_steps,
        gradient_clip_val=settings.gradient_clipping or None,
        val_check_interval=evaluation_interval(settings, plan),
        limit_val_batches=0 if settings.eval_strategy == "no" else 1.0,
        logger=build_loggers(config, run, plan.resume_step),
        default_root_dir=run.path,
        **ALWAYS,
        profiler=throughput.waits,
        plugins=[checkpoint_io],
        callbacks=[
            *callbacks,
            SeedEachMicroBatch(config.seed),
            metrics,
            throughput,
            *weight_callbacks(config),
            *([BatchDigests(run.path)] if settings.log_batch_digests else []),
            *_early_stopping(settings, checkpointer),
            interrupt,
            ProgressBar(metrics, bar=not settings.disable_tqdm),
            SaveLogs(),
            checkpointer,
        ],
    )
    take_batches_as_they_are(trainer)
    return Parts(trainer, metrics, checkpointer, throughput)


def weight_callbacks(config: Config) -> list[Callback]:
    """What acts on the weights of a step, before anything is saved."""
    settings, muon = config.trainer, config.optimizer.muon_config or MuonConfig()
    callbacks: list[Callback] = []
    if config.optimizer.name == MUONCLIP and muon.enable_clipping:
        callbacks.append(QKClip(muon, settings.logging_steps))
    if config.model.ngpt:
        callbacks.append(UnitNorm())
    if settings.ema_decay is not None:
        callbacks.append(EmaWeights(settings.ema_decay))
    return callbacks


def evaluation_interval(settings: TrainerConfig, plan: Plan) -> int:
    """Micro-batches between two evaluations."""
    by_epoch = settings.eval_strategy == "epoch"
    steps = plan.steps_per_epoch if by_epoch else settings.eval_steps
    if plan.score is not None:
        steps = min(steps, plan.steps_per_epoch)
    return max(1, steps) * settings.gradient_accumulation_steps


def quiet_libraries() -> None:
    """Keep the libraries' tips, banners and deprecation notices off the console."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "datasets", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        r".*LeafSpec.*",
        r".*does not have many workers.*",
        r".*val_check_interval.*",
        r".*have no `val_dataloader`.*",
        r".*is not supported by the model summary.*",
        r".*smaller than the logging interval.*",
        r".*`srun` command is available.*",
        r".*anonymous setting has no effect.*",
        r".*torch\.distributed\..* is deprecated.*",  # DeepSpeed's calls
        r".*handles gradient clipping internally.*",  # DeepSpeed's
        r".*sync_dist=True.*",  # what is logged are sums over all ranks already
    ):
        warnings.filterwarnings("ignore", message=message)


def _precision(settings: TrainerConfig, on_cuda: bool) -> str:
    """What Lightning calls the numbers to compute with; logs where another was requested."""
    if on_cuda:
        set_tf32(settings.tf32)
    precision = resolve_precision(settings, on_cuda)
    if precision.reason:
        log.info(precision.reason)
    return precision.lightning


def _early_stopping(settings: TrainerConfig, checkpointer: Checkpointer) -> list[Callback]:
    """``trainer.early_stopping``: evaluations in a row without a better one; 0 is off."""
    if settings.early_stopping <= 0:
        return []
    best = checkpointer.best
    assert best.metric is not None
    return [
        StopEarly(
            monitor=best.metric,
            mode="max" if best.greater_is_better else "min",
            patience=settings.early_stopping,
            check_on_train_epoch_end=False,
            verbose=False,
        )
    ]


def _card_writer(config: Config, card: ModelCard) -> Callable[[Path], None]:
    """A function that writes ``card`` with the rotary positions of this moment."""
    for encoder in card.encoders:  # stages of a run may have other ones than its settings
        theta, scaling = encoder.config.rope_theta, encoder.config.rope_scaling
        model = replace(config.model, rope_theta=theta, rope_scaling=scaling)
        config = replace(config, model=model)

    def write(folder: Path) -> None:
        save_config(config, folder / "config.yaml")
        card.tokenizer.save_pretrained(folder / "tokenizer")
        write_json(card.tokenizer_info, folder / TOKENIZER_INFO)
        write_json(card.fingerprint, folder / FINGERPRINT)

    return write
