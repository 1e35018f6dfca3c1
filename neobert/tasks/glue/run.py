"""Fine-tuning from settings to a run folder: the table of contents of the task."""

from dataclasses import asdict, replace

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import WandbLogger

from neobert.config.root import Config
from neobert.console import get_logger
from neobert.files import write_json
from neobert.optim.schedule import resolve_schedule
from neobert.tasks.glue.build import build_classifier
from neobert.tasks.glue.data import GlueDataModule
from neobert.tasks.glue.hub import load_hub_tokenizer, takes_types
from neobert.tasks.glue.metrics import check_metric
from neobert.tasks.glue.module import GlueModule, GlueSettings, Predictions, gathered
from neobert.tasks.glue.predictions import write_examples, write_submission
from neobert.tasks.glue.report import label_of, scores_by_step, show_report, warn_of_labels
from neobert.tasks.glue.start import Start, find_start
from neobert.training.fit import fit, load_best, optimization_fingerprint
from neobert.training.logger import log_metrics
from neobert.training.resume import check_same_run, resume_point
from neobert.training.run_folder import RunFolder, open_run_folder
from neobert.training.summary import command_line, num_parameters, origin, peak_memory_mib
from neobert.training.trainer import ModelCard, Parts, Plan, build_trainer

log = get_logger(__name__)

SCORE = "eval/score"


def run(config: Config) -> float | None:
    """Fine-tune and predict; return the official score of the final model on the dev set."""
    resume = resume_point(config.trainer)
    start = find_start(config, resume)
    seed_everything(config.seed, verbose=False)
    data = _data(config, start)
    warn_of_labels(config.glue, data.num_labels)
    check_metric(config.trainer, data.task)
    asked, config = config, _as_run(config, start, data)
    plan = Plan(data.total_steps, data.steps_per_epoch, score=SCORE)
    card = _card(config, data, start, plan)
    if resume is not None:
        check_same_run(resume, card.fingerprint, config.trainer.accept_changes)
    # Not before: what is refused leaves the folder as it is.
    folder = open_run_folder(asked, resuming=resume is not None)
    module = build_module(config, start, data, plan)
    step = int(resume.name) if resume is not None else None
    parts = build_trainer(config, folder, plan, card, step)
    _tell_wandb(parts.trainer, config)
    if config.trainer.eval_strategy != "no" and config.trainer.eval_on_start and resume is None:
        parts.trainer.validate(module, datamodule=data, verbose=False)
    fit(parts.trainer, module, data, resume)
    if config.trainer.load_best_model_at_end:
        load_best(parts, module, folder)
    return finish(config, folder, data, module, parts, start)


def build_module(config: Config, start: Start, data: GlueDataModule, plan: Plan) -> GlueModule:
    """The classifier and how it is trained."""
    classifier = build_classifier(config, start, data.task, data.num_labels)
    settings = GlueSettings(
        task=data.task,
        num_heads=classifier.num_heads,
        accumulation=config.trainer.gradient_accumulation_steps,
        log_accuracy=config.trainer.log_train_accuracy,
        log_grad_norm=config.trainer.log_grad_norm,
    )
    schedule = resolve_schedule(replace(config.scheduler, total_steps=None), plan.total_steps)
    return GlueModule(classifier.model, config.optimizer, schedule, settings)


def finish(
    config: Config,
    folder: RunFolder,
    data: GlueDataModule,
    module: GlueModule,
    parts: Parts,
    start: Start,
) -> float | None:
    """Predict, write predictions and ``summary.json``, show the report, return the score."""
    by_step = scores_by_step(folder.metrics_file, SCORE)
    last, step = parts.trainer.global_step, parts.trainer.global_step
    predictions = predict(parts.trainer, module, data)
    after: dict[str, float] = {}
    if config.trainer.eval_strategy != "no":
        after = module.evaluate(predictions[: len(data.validation)])
        best = parts.checkpointer.best
        if config.trainer.load_best_model_at_end and best.step is not None:
            step = best.step
        elif last not in by_step:
            log_metrics(parts.trainer, after)
            by_step[last] = after[SCORE]
    if parts.trainer.is_global_zero:
        write_predictions(data, predictions, folder)
        summary = summarize(config, data, module, parts, start)
        summary |= {
            "score": after.get(SCORE),
            "score_step": step,
            "after": after,
            "scores_by_step": {str(number): value for number, value in by_step.items()},
            "objective": after.get(SCORE),
        }
        write_json(summary, folder.summary_file)
        show_report(summary, folder.path)
    return after.get(SCORE)


def predict(trainer: Trainer, module: GlueModule, data: GlueDataModule) -> list[Predictions]:
    """The final model's predictions of all evaluation sets, then all test sets."""
    found = trainer.predict(module, dataloaders=data.predict_dataloader()) or []
    several = len(data.validation) + len(data.test) > 1
    return [gathered(part) for part in (found if several else [found])]  # type: ignore[arg-type]


def write_predictions(
    data: GlueDataModule, predictions: list[Predictions], folder: RunFolder
) -> None:
    """``predictions_<split>.tsv`` of every evaluation and test set."""
    splits = dict(zip(data.validation, data.task.validation, strict=False))
    for (end, examples), part in zip(data.validation.items(), predictions, strict=False):
        path = folder.path / f"predictions_{splits[end].partition('[')[0]}.tsv"
        write_examples(data.task, examples.names, part, path)
    for (split, examples), part in zip(
        data.test.items(), predictions[len(data.validation) :], strict=True
    ):
        write_submission(data.task, examples.names, part, folder.path / f"predictions_{split}.tsv")


def summarize(
    config: Config, data: GlueDataModule, module: GlueModule, parts: Parts, start: Start
) -> dict[str, object]:
    """What ``summary.json`` says, the scores apart."""
    metrics = parts.metrics
    return {
        "task": "glue",
        "task_name": config.glue.task_name,
        "model": label_of(config, start),
        "weights": start.record,
        "settings": {
            "seed": config.seed,
            "lr": config.optimizer.lr,
            "batch_size": data.share.rows_per_step,
            "epochs": round(data.total_steps / data.steps_per_epoch, 3),
            "max_steps": data.total_steps,
            "weight_decay": config.optimizer.weight_decay,
            "max_seq_length": config.glue.max_seq_length,
            "optimizer": config.optimizer.name,
            "train_split": config.dataset.train_split,
        },
        "data": {
            "origin": data.origin,
            "train": len(data.train),
            "validation": {end or "": len(part) for end, part in data.validation.items()},
            "test": {name: len(part) for name, part in data.test.items()},
            "labels": list(data.task.labels),
        },
        "steps": parts.trainer.global_step,
        "tokens": metrics.tokens,
        "seconds": round(metrics.seconds, 3),
        "tokens_per_sec": round(metrics.tokens / max(metrics.seconds, 1e-9), 1),
        "throughput": parts.throughput.summary(),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "best": asdict(parts.checkpointer.best),
        "loads_best": config.trainer.load_best_model_at_end,
        "derived": {
            "total_steps": data.total_steps,
            "steps_per_epoch": data.steps_per_epoch,
            "num_labels": data.num_labels,
            "parameters": num_parameters(module.model),
            "precision": str(parts.trainer.precision),
            "devices": parts.trainer.world_size,
            "schedule": asdict(module.schedule),
        },
        **_metadata(config),
        **origin(command_line()),
    }


def _data(config: Config, start: Start) -> GlueDataModule:
    if start.tokenizer is None:
        tokenizer = load_hub_tokenizer(config)
        data = GlueDataModule(config, tokenizer, packed=False, has_types=takes_types(config))
    else:
        data = GlueDataModule(config, start.tokenizer, packed=True)
    data.setup("fit")
    return data


def _as_run(config: Config, start: Start, data: GlueDataModule) -> Config:
    """The settings with what was derived: what a checkpoint says of its model, and W&B shows."""
    wandb = config.wandb
    words = (label_of(config, start), config.glue.task_name)
    name = wandb.name or "-".join([*words, f"lr{config.optimizer.lr:g}", f"seed{config.seed}"])
    tags = [*wandb.tags, *words, f"lr={config.optimizer.lr:g}", f"seed={config.seed}"]
    return replace(
        config,
        model=start.model,
        glue=replace(config.glue, num_labels=data.num_labels),
        wandb=replace(wandb, name=name, tags=list(dict.fromkeys(tags))),
    )


def _card(config: Config, data: GlueDataModule, start: Start, plan: Plan) -> ModelCard:
    return ModelCard(
        tokenizer=data.tokenizer,
        tokenizer_info={
            "tokenizer_name": data.tokenizer.name_or_path,
            "vocab_size": len(data.tokenizer) if start.kind == "hub" else start.model.vocab_size,
            "pad_token_id": data.tokenizer.pad_token_id,
            "labels": list(data.task.labels),
            "weights": start.record,
        },
        fingerprint={**data.fingerprint(), **optimization_fingerprint(config, plan)},
    )


def _metadata(config: Config) -> dict[str, object]:
    return {f"pretraining_{key}": value for key, value in config.pretraining_metadata.items()}


def _tell_wandb(trainer: Trainer, config: Config) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.config.update(_metadata(config), allow_val_change=True)
