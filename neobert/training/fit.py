"""What every task does around Lightning's ``fit``: say how to resume, end on the best weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from neobert.config.model import ModelConfig, fields_of
from neobert.config.optimizer import MuonConfig
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.errors import ConfigError, RunError
from neobert.files import first_line
from neobert.optim.groups import MUONCLIP
from neobert.training.callbacks.interrupt import Interrupted
from neobert.training.metrics_file import read_metrics
from neobert.training.resume import TOTAL_STEPS, resume_command
from neobert.training.run_folder import RunFolder
from neobert.training.trainer import Parts, Plan

log = get_logger(__name__)


def fit(
    trainer: Trainer, module: LightningModule, data: LightningDataModule, resume: Path | None
) -> None:
    """Train to the end, or say how to resume when interrupted and raise ``Interrupted``."""
    try:
        with restoring(trainer, resume):
            trainer.fit(module, datamodule=data, ckpt_path=resume)
    except Interrupted as stop:
        if stop.saved:
            log.warning("stopped after step %d; to resume:\n  %s", stop.step, resume_command())
        else:
            log.warning(
                "stopped after step %d, which is lost: trainer.save_strategy=no or "
                "trainer.save_model=false",
                stop.step,
            )
        raise


class _Started(Callback):
    """Knows whether everything has been restored and training has begun."""

    started = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = True


@contextmanager
def restoring(trainer: Trainer, resume: Path | None) -> Iterator[None]:
    """Turn whatever a library raises on a checkpoint's state into one ``ConfigError`` line."""
    watch = _Started()
    trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    try:
        yield
    except (RunError, ConfigError, Interrupted, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if resume is None or watch.started:
            raise
        raise ConfigError(
            f"trainer.resume_from_checkpoint={resume}: its state cannot be restored "
            f"({type(error).__name__}: {first_line(error)}); resume from an earlier checkpoint"
        ) from error


def load_best(parts: Parts, folder: RunFolder) -> None:
    """``trainer.load_best_model_at_end``: continue with the weights of the best evaluation."""
    best = parts.checkpointer.best
    if best.step is None:
        log.warning("trainer.load_best_model_at_end: nothing was evaluated; the last weights stay")
        return
    strategy = parts.trainer.strategy
    strategy.load_model_state_dict(strategy.load_checkpoint(folder.checkpoints / str(best.step)))
    log.info("best model: step %d, %s %.4f", best.step, best.metric, best.value)


def evaluation_at(folder: RunFolder, step: int) -> dict[str, float]:
    """The evaluation metrics that ``metrics.csv`` has for ``step``.

    Empty if there are none, or if the file can no longer be read: a finished run keeps its summary.
    """
    try:
        rows = read_metrics(folder.metrics_file)
    except ConfigError:
        return {}
    for row in rows:
        if int(row["step"]) == step:
            return {
                name: float(value)
                for name, value in row.items()
                if name.startswith("eval/") and value
            }
    return {}


def model_fingerprint(config: ModelConfig) -> dict[str, object]:
    """The settings of the model that a resumed run must share, by key."""
    names = fields_of("shape", "positions", "initialisation", "training")
    return {f"model.{name}": getattr(config, name) for name in names}


def optimization_fingerprint(config: Config, plan: Plan) -> dict[str, object]:
    """How a run steps: what a resumed one must share beside its data, by setting."""
    rule = asdict(config.optimizer)
    del rule["muon_config"]
    repeated = config.trainer.overfit_steps
    muon = asdict(config.optimizer.muon_config or MuonConfig()) if rule["name"] == MUONCLIP else {}
    return {
        **{f"optimizer.{key}": value for key, value in rule.items()},
        **{f"optimizer.muon_config.{key}": value for key, value in muon.items()},
        "trainer.gradient_accumulation_steps": config.trainer.gradient_accumulation_steps,
        **({"trainer.overfit_steps": repeated} if repeated else {}),
        "trainer.gradient_clipping": config.trainer.gradient_clipping,
        "trainer.ema_decay": config.trainer.ema_decay,
        TOTAL_STEPS: plan.total_steps,
        **{f"scheduler.{key}": value for key, value in asdict(config.scheduler).items()},
    }
