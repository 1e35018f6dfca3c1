"""Evaluate a checkpoint as the run that wrote it would."""

from dataclasses import replace
from pathlib import Path

from lightning.pytorch import seed_everything

from neobert.config.root import Config
from neobert.config.store import load_config_file
from neobert.files import write_json
from neobert.training.extras import Extras
from neobert.training.run import TaskRun, prepare_run
from neobert.training.run_folder import EVALUATION
from neobert.training.summary import command_line, origin


def evaluate_checkpoint(kind: type[TaskRun], config: Config, checkpoint: Path) -> dict[str, float]:
    """The metrics of ``checkpoint`` on the evaluation data of ``config``, in one process.

    They are written to ``trainer.output_dir``, with what the task writes (predictions).
    """
    seed_everything(config.seed, verbose=False)
    task = kind(_as_saved(config, checkpoint), checkpoint)
    task.data.setup("fit")
    task.check()
    run = prepare_run(task, None, Extras())
    trainer = run.parts.trainer
    trainer.strategy.connect(run.module)
    run.module.load_state_dict(trainer.strategy.load_checkpoint(checkpoint)["state_dict"])
    # Lightning's count of optimizer steps, under which the metrics are logged.
    progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
    progress.optimizer.step.total.completed = int(checkpoint.name)
    metrics = task.final_evaluation(run)
    if trainer.is_global_zero:
        result = {"checkpoint": str(checkpoint), "metrics": metrics, **origin(command_line())}
        write_json(result, run.folder.path / EVALUATION)
    return metrics


def _as_saved(config: Config, checkpoint: Path) -> Config:
    """``config`` with the rotary positions of the checkpoint, for one process and no logger."""
    saved = load_config_file(checkpoint / "config.yaml").model
    model = replace(config.model, rope_theta=saved.rope_theta, rope_scaling=saved.rope_scaling)
    trainer = replace(
        config.trainer,
        strategy="single",
        devices=1,
        num_nodes=1,
        load_best_model_at_end=False,
        early_stopping=0,
        eval_strategy="steps",
        eval_steps=1,
        resume_from_checkpoint=None,
        torch_compile=False,
        report_to=[],
        overfit_steps=0,
    )
    wandb = replace(config.wandb, enabled=False)
    return replace(config, model=model, trainer=trainer, wandb=wandb, loggers={})
