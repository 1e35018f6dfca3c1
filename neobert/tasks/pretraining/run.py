"""Pretraining from settings to a run folder: the table of contents of the task."""

from dataclasses import asdict, replace

from lightning.pytorch import seed_everything

from neobert.config.root import Config
from neobert.console import get_logger
from neobert.files import write_json
from neobert.ops.kernels import liger_runs
from neobert.optim.groups import owners, owners_table
from neobert.optim.schedule import Schedule, resolve_schedule
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.tasks.pretraining.initial import initial_model, initial_weights
from neobert.tasks.pretraining.module import PretrainingModule, PretrainingSettings
from neobert.tasks.pretraining.report import fill_examples, show_report
from neobert.training.compile import compile_if_asked
from neobert.training.fit import (
    evaluation_at,
    fit,
    load_best,
    model_fingerprint,
    optimization_fingerprint,
)
from neobert.training.plot import plot_losses
from neobert.training.resume import check_same_run, resume_point
from neobert.training.run_folder import RunFolder, open_run_folder
from neobert.training.start import Pretrained
from neobert.training.strategy import holds_whole_model, resolve_strategy, runs_deepspeed
from neobert.training.summary import command_line, num_parameters, origin, peak_memory_mib
from neobert.training.trainer import ModelCard, Parts, Plan, build_trainer, runs_on_cuda

log = get_logger(__name__)


def run(config: Config) -> float | None:
    """Train; return the final evaluation loss (the objective of a sweep), if there is one."""
    resume = resume_point(config.trainer)
    seed_everything(config.seed, verbose=False)
    weights = initial_weights(config, resume)
    data = PretrainingDataModule(config)
    data.prepare_data()
    data.setup("fit")
    plan = Plan(data.total_steps, data.steps_per_epoch)
    schedule = resolve_schedule(config.scheduler, plan.total_steps)
    card = ModelCard(
        data.tokenizer.tokenizer,
        data.tokenizer.info(),
        {
            **data.fingerprint(),
            **model_fingerprint(config.model),
            **optimization_fingerprint(config, plan),
        },
    )
    if resume is not None:
        check_same_run(resume, card.fingerprint, config.trainer.accept_changes)
    # Not before: what is refused leaves the folder as it is.
    folder = open_run_folder(config, resuming=resume is not None)
    module = build_module(config, data, schedule, weights)
    named = module.model.named_parameters()
    log.info("%s", owners_table(owners(config.optimizer, named, decays=not config.model.ngpt)))
    step = int(resume.name) if resume is not None else None
    config = replace(config, model=module.model.config)  # with its vocabulary, for checkpoints
    parts = build_trainer(config, folder, plan, card, step)
    if data.has_validation and config.trainer.eval_on_start and resume is None:
        parts.trainer.validate(module, datamodule=data, verbose=False)
    fit(parts.trainer, module, data, resume)
    if data.has_validation and not evaluation_at(folder, parts.trainer.global_step):
        parts.trainer.validate(module, datamodule=data, verbose=False)
    if config.trainer.load_best_model_at_end:
        load_best(parts, module, folder)
    return finish(config, folder, data, module, parts)


def build_module(
    config: Config,
    data: PretrainingDataModule,
    schedule: Schedule,
    weights: Pretrained | None = None,
) -> PretrainingModule:
    """The model, its head and how they are trained."""
    model = initial_model(config.model, data.tokenizer, weights)
    model.model.gradient_checkpointing = config.trainer.gradient_checkpointing
    on_cuda = runs_on_cuda(config.trainer)
    compile_if_asked(model.model, config.trainer, runs_deepspeed(config, on_cuda), on_cuda)
    settings = PretrainingSettings(
        accumulation=config.trainer.gradient_accumulation_steps,
        masked_logits_only=config.trainer.masked_logits_only_loss,
        log_accuracy=config.trainer.log_train_accuracy,
        log_grad_norm=config.trainer.log_grad_norm,
    )
    return PretrainingModule(model, config.optimizer, schedule, settings)


def finish(
    config: Config,
    folder: RunFolder,
    data: PretrainingDataModule,
    module: PretrainingModule,
    parts: Parts,
) -> float | None:
    """Write ``summary.json`` and the plot, show the report, return the final evaluation loss."""
    best = parts.checkpointer.best.step if config.trainer.load_best_model_at_end else None
    after = evaluation_at(folder, best if best is not None else parts.trainer.global_step)
    if parts.trainer.is_global_zero:
        summary = summarize(config, folder, data, module, parts)
        summary |= {"after": after, "objective": after.get("eval/loss")}
        write_json(summary, folder.summary_file)
        plot_losses(folder.metrics_file, folder.plot_file, {"unigram": data.unigram_loss})
        # One process alone cannot run a model whose weights lie elsewhere too.
        examples = data.example_batches() if holds_whole_model(parts.trainer) else []
        filled = fill_examples(module.model, data.tokenizer, examples)
        show_report(summary, filled, str(folder.path))
    return after.get("eval/loss")


def summarize(
    config: Config,
    folder: RunFolder,
    data: PretrainingDataModule,
    module: PretrainingModule,
    parts: Parts,
) -> dict[str, object]:
    """What ``summary.json`` says, the evaluation after training apart."""
    metrics = parts.metrics
    return {
        "task": "pretraining",
        "steps": parts.trainer.global_step,
        "tokens": metrics.tokens,
        "seconds": round(metrics.seconds, 3),
        "tokens_per_sec": round(metrics.tokens / max(metrics.seconds, 1e-9), 1),
        "throughput": parts.throughput.summary(),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "before": evaluation_at(folder, 0),
        "unigram_loss": data.unigram_loss,
        "best": asdict(parts.checkpointer.best),
        "derived": {
            "total_steps": data.total_steps,
            "steps_per_epoch": data.steps_per_epoch,
            "vocab_size": module.model.vocab_size,
            "pad_token_id": data.pad_token_id,
            "parameters": num_parameters(module.model),
            "precision": str(parts.trainer.precision),
            "devices": parts.trainer.world_size,
            **_automatic(config, module),
            "schedule": asdict(module.schedule),
            "seed": config.seed,
        },
        **origin(command_line()),
    }


def _automatic(config: Config, module: PretrainingModule) -> dict[str, object]:
    """What the automatic choices came to."""
    encoder = module.model.model
    return {
        "strategy": resolve_strategy(config, runs_on_cuda(config.trainer)).name,
        "attention": encoder.attention,
        "kernels": "liger" if liger_runs(config.model.kernel_backend, module.device) else "torch",
        "compiled": encoder.compiled is not None,
    }
