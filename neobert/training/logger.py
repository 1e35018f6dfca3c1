"""Where numbers go: ``metrics.csv`` always, W&B and TensorBoard if requested."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.nn import Module

from neobert.config.root import Config
from neobert.config.wandb import WandbConfig
from neobert.errors import ConfigError
from neobert.files import write_atomically
from neobert.training.callbacks.checkpointer import evaluates_after
from neobert.training.metrics_file import MetricsFile
from neobert.training.run_folder import RunFolder

TRAIN = "train/"


class WandbMetrics(WandbLogger):
    """W&B, which gets the training metrics every ``wandb.log_interval`` steps and all others."""

    def __init__(self, config: Config, run: RunFolder) -> None:
        """Open the run; with ``wandb.resume`` the one whose id the run folder keeps."""
        settings = config.wandb
        run_id = None
        if settings.resume != "never" and run.wandb_id_file.is_file():
            run_id = run.wandb_id_file.read_text().strip()
        super().__init__(
            name=settings.name,
            save_dir=settings.dir,
            project=settings.project,
            entity=settings.entity,
            tags=list(settings.tags),
            id=run_id,
            mode=settings.mode,
            resume=settings.resume,
            config={**_without_empty(asdict(config)), **pretraining_metadata(config)},
        )
        self.interval = settings.log_interval
        self.histograms = settings.watch
        self._keep_id(run)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is not None and step % self.interval:
            metrics = {key: value for key, value in metrics.items() if not key.startswith(TRAIN)}
        if metrics:
            super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def log_graph(self, model: Module, input_array: Tensor | None = None) -> None:
        """``wandb.watch``: histograms of gradients or weights. Lightning calls this once."""
        match self.histograms:
            case None | "off":
                return
            case "gradients" | "all" as kind:
                self.watch(model, log=kind, log_freq=self.interval, log_graph=False)
            case _:  # parameters, also spelled weights
                self.watch(model, log="parameters", log_freq=self.interval, log_graph=False)

    @rank_zero_only
    def _keep_id(self, run: RunFolder) -> None:
        write_atomically(run.wandb_id_file, f"{self.experiment.id}\n")


class SaveLogs(Callback):
    """Has ``metrics.csv`` written once per step: stands after the callbacks that log, and before
    the one that saves checkpoints."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if not evaluates_after(trainer, batch_idx):  # else its numbers go into the same row
            save_metrics(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        save_metrics(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        save_metrics(trainer)


def save_metrics(trainer: Trainer) -> None:
    """Write what was logged since the last row of ``metrics.csv``."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile):
            logger.save()


def build_loggers(config: Config, run: RunFolder, resume_step: int | None) -> list[Logger]:
    """The loggers of a run; ``resume_step`` is where it continues, ``None`` if it is new."""
    loggers: list[Logger] = [MetricsFile(run.metrics_file, resume_step)]
    if wants_wandb(config):
        Path(config.wandb.dir).mkdir(parents=True, exist_ok=True)
        loggers.append(WandbMetrics(config, run))
    if "tensorboard" in config.trainer.report_to:
        loggers.append(TensorBoardLogger(run.path, name="tensorboard", version=""))
    if "mlflow" in config.trainer.report_to:
        loggers.append(_mlflow(config, run))
    return loggers


def _mlflow(config: Config, run: RunFolder) -> MLFlowLogger:
    """MLflow: the server of ``MLFLOW_TRACKING_URI``, else the file ``mlflow.db`` of the run."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{run.path.resolve()}/mlflow.db")
    try:
        return MLFlowLogger(config.wandb.project, config.wandb.name, uri)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "trainer.report_to=[mlflow]: MLflow is not installed: pip install 'neobert[mlflow]'"
        ) from error


def wants_wandb(config: Config) -> bool:
    """``wandb.enabled``, or ``wandb`` among ``trainer.report_to``."""
    settings: WandbConfig = config.wandb
    requested = settings.enabled or "wandb" in config.trainer.report_to
    return requested and settings.mode != "disabled"


def log_metrics(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Send ``metrics`` to every logger under the number of finished optimizer steps."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)


def pretraining_metadata(config: Config) -> dict[str, object]:
    """``pretraining_metadata`` of the settings, under names that say so."""
    return {f"pretraining_{key}": value for key, value in config.pretraining_metadata.items()}


def _without_empty(values: dict[str, object]) -> dict[str, object]:
    """What W&B shows as the run's settings: those that say something."""
    filled: dict[str, object] = {}
    for key, value in values.items():
        inner = _without_empty(value) if isinstance(value, dict) else value
        if inner not in (None, "", [], {}):
            filled[key] = inner
    return filled
