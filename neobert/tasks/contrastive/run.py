"""Contrastive training from settings to a run folder: the table of contents of the task."""

from dataclasses import asdict

from lightning.pytorch import seed_everything
from rich.console import Console
from rich.table import Table

from neobert.config.root import Config
from neobert.console import get_logger
from neobert.files import write_json
from neobert.losses.contrastive import Similarity
from neobert.optim.groups import owners, owners_table
from neobert.optim.schedule import Schedule, resolve_schedule
from neobert.tasks.contrastive.data import ContrastiveDataModule
from neobert.tasks.contrastive.module import ContrastiveModule, ContrastiveSettings
from neobert.tasks.contrastive.start import Start, open_start
from neobert.training.compile import compile_if_asked
from neobert.training.fit import evaluation_at, fit, load_best, optimization_fingerprint
from neobert.training.metrics_file import read_metrics
from neobert.training.plot import plot_losses
from neobert.training.resume import check_same_run, resume_point
from neobert.training.run_folder import RunFolder, open_run_folder
from neobert.training.strategy import runs_deepspeed
from neobert.training.summary import command_line, num_parameters, origin, peak_memory_mib
from neobert.training.trainer import ModelCard, Parts, Plan, build_trainer, runs_on_cuda

log = get_logger(__name__)


def run(config: Config) -> float | None:
    """Train; return the metric that tells the best model (the objective of a sweep)."""
    resume = resume_point(config.trainer)
    seed_everything(config.seed, verbose=False)
    start = open_start(config, resume)
    config = start.config
    data = ContrastiveDataModule(config, start.tokenizer)
    data.setup("fit")
    data.evaluation.check_metric(config.trainer.metric_for_best_model)
    plan = Plan(data.total_steps, data.steps_per_epoch)
    schedule = resolve_schedule(config.scheduler, plan.total_steps)
    fingerprint = {**data.fingerprint(), **optimization_fingerprint(config, plan)}
    card = ModelCard(start.tokenizer.tokenizer, start.tokenizer.info(), fingerprint)
    if resume is not None:
        check_same_run(resume, card.fingerprint, config.trainer.accept_changes)
    folder = open_run_folder(config, resuming=resume is not None)
    module = build_module(config, start, data, schedule)
    named = module.model.named_parameters()
    log.info("%s", owners_table(owners(config.optimizer, named, decays=not config.model.ngpt)))
    step = int(resume.name) if resume is not None else None
    parts = build_trainer(config, folder, plan, card, step)
    if data.has_validation and config.trainer.eval_on_start and resume is None:
        parts.trainer.validate(module, datamodule=data, verbose=False)
    fit(parts.trainer, module, data, resume)
    if data.has_validation and not evaluation_at(folder, parts.trainer.global_step):
        parts.trainer.validate(module, datamodule=data, verbose=False)
    if config.trainer.load_best_model_at_end:
        load_best(parts, module, folder)
    return finish(config, folder, start, module, parts)


def build_module(
    config: Config, start: Start, data: ContrastiveDataModule, schedule: Schedule
) -> ContrastiveModule:
    """The encoder and how it is trained."""
    start.encoder.gradient_checkpointing = config.trainer.gradient_checkpointing
    on_cuda = runs_on_cuda(config.trainer)
    compile_if_asked(start.encoder, config.trainer, runs_deepspeed(config, on_cuda), on_cuda)
    settings = ContrastiveSettings(
        pooling=config.contrastive.pooling,
        loss_type=config.contrastive.loss_type,
        similarity=Similarity(
            config.contrastive.temperature, config.contrastive.hard_negative_weight
        ),
        log_grad_norm=config.trainer.log_grad_norm,
    )
    return ContrastiveModule(start.model, data.evaluation, config.optimizer, schedule, settings)


def finish(
    config: Config, folder: RunFolder, start: Start, module: ContrastiveModule, parts: Parts
) -> float | None:
    """Write ``summary.json`` and the plot, show the report, return the objective."""
    best = parts.checkpointer.best
    ended_on = best.step if config.trainer.load_best_model_at_end else None
    after = evaluation_at(folder, parts.trainer.global_step if ended_on is None else ended_on)
    objective = after.get(best.metric or "eval/mrr_at_10")
    if parts.trainer.is_global_zero:
        summary = summarize(config, folder, start, module, parts)
        summary |= {"after": after, "objective": objective}
        write_json(summary, folder.summary_file)
        if summary["pairs"] or after:  # else nothing but pretraining steps, whose loss is apart
            plot_losses(folder.metrics_file, folder.plot_file, {})
        show_report(summary, str(folder.path))
    return objective


def summarize(
    config: Config, folder: RunFolder, start: Start, module: ContrastiveModule, parts: Parts
) -> dict[str, object]:
    """What ``summary.json`` says, the evaluation after training apart."""
    metrics = parts.metrics
    rows = read_metrics(folder.metrics_file)
    pairs = sum(float(row.get("train/pairs") or 0) for row in rows)
    return {
        "task": "contrastive",
        "starts_from": start.origin,
        "steps": parts.trainer.global_step,
        "tokens": metrics.tokens,
        "pairs": pairs,
        "seconds": round(metrics.seconds, 3),
        "tokens_per_sec": round(metrics.tokens / max(metrics.seconds, 1e-9), 1),
        "pairs_per_sec": round(pairs / max(metrics.seconds, 1e-9), 1),
        "throughput": parts.throughput.summary(),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "before": evaluation_at(folder, 0),
        "best": asdict(parts.checkpointer.best),
        "derived": {
            "total_steps": parts.trainer.max_steps,
            "vocab_size": start.encoder.vocab_size,
            "pad_token_id": start.encoder.pad_token_id,
            "parameters": num_parameters(module.model),
            "precision": str(parts.trainer.precision),
            "devices": parts.trainer.world_size,
            "schedule": asdict(module.schedule),
            "seed": config.seed,
        },
        **origin(command_line()),
    }


def show_report(summary: dict[str, object], run: str) -> None:
    """Print the evaluations before and after to the terminal."""
    before, after = summary["before"], summary["after"]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    table = Table(title=run, title_justify="left")
    table.add_column("")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    for name, value in after.items():
        was = before.get(name)
        shown = "" if was is None else f"{was:.4f}"
        table.add_row(name.removeprefix("eval/"), shown, f"{value:.4f}")
    console = Console(stderr=True)
    if after:
        console.print(table)
    console.print(f"{summary['pairs_per_sec']:,.0f} pairs/s in {summary['seconds']:.0f} s")
