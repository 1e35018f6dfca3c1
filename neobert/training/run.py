"""One run: resume → plan → folder → fit → best weights → summary, the same for every task.

A task is a class that says what is special about it (:class:`TaskRun`); :func:`train` runs it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from lightning.pytorch import Callback, seed_everything
from torch import nn
from transformers import PreTrainedTokenizerBase

from neobert.config.root import Config
from neobert.console import get_logger
from neobert.files import write_json
from neobert.model.encoder import Encoder
from neobert.ops.kernels import liger_runs
from neobert.optim.groups import owners, owners_table
from neobert.optim.schedule import Schedule, resolve_schedule
from neobert.training.compile import compile_if_enabled
from neobert.training.data import RunDataModule
from neobert.training.extras import Extras, configured
from neobert.training.fit import evaluation_at, fit, load_best, optimization_fingerprint
from neobert.training.logger import save_metrics
from neobert.training.module import OptimizedModule
from neobert.training.plot import plot_losses
from neobert.training.resume import branch_point, check_same_run, resume_point
from neobert.training.run_folder import RunFolder, open_run_folder
from neobert.training.strategy import StrategyChoice, resolve_strategy
from neobert.training.summary import command_line, num_parameters, origin, peak_memory_mib
from neobert.training.trainer import ModelCard, Parts, Plan, build_trainer

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A run that has been trained: what its summary and its report are made from."""

    config: Config
    folder: RunFolder
    module: OptimizedModule
    parts: Parts
    strategy: StrategyChoice

    @property
    def final_step(self) -> int:
        """Step of the weights that the run ends with."""
        best = self.parts.checkpointer.best.step
        if self.config.trainer.load_best_model_at_end and best is not None:
            return best
        return self.parts.trainer.global_step


class TaskRun(ABC):
    """What is special about the runs of a task.

    The constructor opens what the run starts from and sets the attributes below; nothing may be
    written before :func:`train` has opened the run's folder.
    """

    score: ClassVar[str | None] = None
    """Metric that is better when larger and is evaluated in every epoch, for fine-tuning."""

    config: Config
    """The settings with what is derived, by :meth:`build_module` too: what checkpoints say."""

    requested: Config
    """The settings that the run's own ``config.yaml`` says."""

    data: RunDataModule

    @abstractmethod
    def __init__(self, config: Config, resume: Path | None) -> None:
        """``resume``: the checkpoint that the run continues from."""

    @abstractmethod
    def build_module(self, schedule: Schedule) -> OptimizedModule:
        """The model and how it is trained."""

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that checkpoints hold."""

    @property
    @abstractmethod
    def tokenizer_info(self) -> dict[str, object]:
        """What checkpoints say about it."""

    def fingerprint(self) -> dict[str, object]:
        """What a resumed run must share beside data and optimisation."""
        return {}

    def check(self) -> None:  # noqa: B027 - a task may have nothing to check
        """Raise ``ConfigError`` if settings and data do not fit together."""

    def objective(self, run: TrainedRun) -> str:
        """Metric that a sweep minimises or maximises."""
        return self.score or "eval/loss"

    def schedule(self, total_steps: int) -> Schedule:
        """The learning rate over the run."""
        return resolve_schedule(self.config.scheduler, total_steps)

    def final_evaluation(self, run: TrainedRun) -> dict[str, float]:
        """Evaluate the last step if nobody has, load the best weights; metrics of the latter."""
        trainer = run.parts.trainer
        if self.data.has_validation and not evaluation_at(run.folder, trainer.global_step):
            trainer.validate(run.module, datamodule=self.data, verbose=False)
        if self.config.trainer.load_best_model_at_end:
            load_best(run.parts, run.folder)
        metrics = evaluation_at(run.folder, run.final_step)
        if not metrics and run.final_step == trainer.global_step:  # metrics.csv was lost
            values = trainer.callback_metrics.items()
            metrics = {name: float(value) for name, value in values if name.startswith("eval/")}
        return metrics

    def callbacks(self, step: int) -> list[Callback]:
        """Callbacks that only this task has; ``step`` is where the run starts."""
        return []

    def summary(self, run: TrainedRun) -> dict[str, object]:
        """Entries of ``summary.json`` that only this task has."""
        return {}

    def loss_levels(self) -> dict[str, float]:
        """Horizontal lines of the loss plot, by label."""
        return {}

    @abstractmethod
    def report(self, run: TrainedRun, summary: Mapping[str, object]) -> None:
        """Show the result on the terminal."""


def train(kind: type[TaskRun], config: Config, extras: Extras | None = None) -> float | None:
    """Train a task; return the objective of a sweep, if it was evaluated."""
    own = resume_point(config.trainer)
    resume = own or branch_point(config.trainer)
    seed_everything(config.seed, verbose=False)
    task = kind(config, resume)
    task.data.setup("fit")
    task.check()
    branches = own is None and resume is not None
    run = prepare_run(task, resume, extras or Extras(), branches)
    trainer, settings = run.parts.trainer, config.trainer
    if task.data.has_validation and settings.eval_on_start and resume is None:
        trainer.validate(run.module, datamodule=task.data, verbose=False)
    fit(trainer, run.module, task.data, resume)
    after = task.final_evaluation(run)
    save_metrics(trainer)  # of predictions after the last step
    if trainer.is_global_zero:
        summary = run_summary(task, run, after)
        write_json(summary, run.folder.summary_file)
        plot_losses(run.folder.metrics_file, run.folder.plot_file, task.loss_levels())
        task.report(run, summary)
    trainer.strategy.barrier()  # every rank finds the files of the run
    return after.get(task.objective(run))


def build_module(task: TaskRun, total_steps: int, strategy: StrategyChoice) -> OptimizedModule:
    """The module of ``task``, compiled and with gradient checkpointing where that is set."""
    settings, module = task.config.trainer, task.build_module(task.schedule(total_steps))
    for encoder in _encoders(module):
        encoder.gradient_checkpointing = settings.gradient_checkpointing
        compile_if_enabled(encoder, settings, strategy)
    return module


def prepare_run(
    task: TaskRun, resume: Path | None, extras: Extras, is_branch: bool = False
) -> TrainedRun:
    """The run with its folder, ready to be trained. What is refused leaves the folder as it is."""
    data, strategy = task.data, resolve_strategy(task.config)
    step = int(resume.name) if resume is not None else None
    plan = Plan(data.total_steps, data.steps_per_epoch, task.score, step)
    steps = optimization_fingerprint(task.config, plan)
    fingerprint = {**data.fingerprint(), **task.fingerprint(), **steps}
    if resume is not None:
        accepted = task.config.trainer.accept_changes
        check_same_run(resume, fingerprint, accepted, is_branch)
    callbacks = [*task.callbacks(step or 0), *configured(task.config, "callbacks")]
    folder = open_run_folder(task.requested, resuming=resume is not None and not is_branch)
    module = build_module(task, plan.total_steps, strategy)
    config, parameters = task.config, module.model.named_parameters()
    log.info("%s", owners_table(owners(config.optimizer, parameters, decays=not config.model.ngpt)))
    card = ModelCard(task.tokenizer, task.tokenizer_info, fingerprint, _encoders(module))
    callbacks += extras.callbacks
    parts = build_trainer(config, folder, plan, card, strategy, callbacks)
    loggers = [*configured(config, "loggers"), *extras.loggers]
    parts.trainer.loggers = [*parts.trainer.loggers, *loggers]
    return TrainedRun(config, folder, module, parts, strategy)


def run_summary(task: TaskRun, run: TrainedRun, after: dict[str, float]) -> dict[str, object]:
    """Content of ``summary.json``; ``after`` is the final evaluation."""
    parts, data = run.parts, task.data
    tokens, seconds = parts.metrics.tokens, parts.metrics.seconds
    return {
        "task": run.config.task,
        "steps": parts.trainer.global_step,
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_sec": round(tokens / max(seconds, 1e-9), 1),
        "throughput": parts.throughput.summary(),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "before": evaluation_at(run.folder, 0),
        "after": after,
        "objective": after.get(task.objective(run)),
        "best": asdict(parts.checkpointer.best),
        "derived": {
            "total_steps": data.total_steps,
            "steps_per_epoch": data.steps_per_epoch,
            "parameters": num_parameters(run.module.model),
            "precision": str(parts.trainer.precision),
            "devices": parts.trainer.world_size,
            "strategy": run.strategy.name,
            "schedule": asdict(run.module.schedule),
            "seed": run.config.seed,
            **_encoder_choices(run),
        },
        **task.summary(run),
        **origin(command_line()),
    }


def _encoders(module: nn.Module) -> list[Encoder]:
    return [part for part in module.modules() if isinstance(part, Encoder)]


def _encoder_choices(run: TrainedRun) -> dict[str, object]:
    """What the automatic choices came to, for models of this project."""
    choices: dict[str, object] = {}
    for encoder in _encoders(run.module):
        backend = encoder.config.kernel_backend
        choices = {
            "vocab_size": encoder.vocab_size,
            "pad_token_id": encoder.pad_token_id,
            "attention": encoder.attention,
            "kernels": "liger" if liger_runs(backend, run.module.device) else "torch",
            "compiled": encoder.compiled is not None,
        }
    return choices
