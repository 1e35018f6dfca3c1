"""What is special about a pretraining run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lightning.pytorch import Callback
from transformers import PreTrainedTokenizerBase

from neobert.config.root import Config
from neobert.config.scheduler import SchedulerConfig
from neobert.data.stages import Stage, stage_at
from neobert.errors import ConfigError
from neobert.optim.schedule import LrStage, Schedule, resolve_schedule
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.tasks.pretraining.initial import initial_model, initial_weights
from neobert.tasks.pretraining.module import PretrainingModule, PretrainingSettings
from neobert.tasks.pretraining.report import fill_examples, show_losses
from neobert.training.callbacks.stage_changes import EnterStages, enter_rope
from neobert.training.fit import model_fingerprint
from neobert.training.run import TaskRun, TrainedRun
from neobert.training.strategy import holds_whole_model, resolve_strategy


class PretrainingRun(TaskRun):
    """Documents in, an encoder that fills in masked tokens out."""

    data: PretrainingDataModule

    def __init__(self, config: Config, resume: Path | None) -> None:
        self.config = self.requested = config
        self.weights = initial_weights(config, resume)
        self.data = PretrainingDataModule(config)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.data.tokenizer.tokenizer

    @property
    def tokenizer_info(self) -> dict[str, object]:
        return self.data.tokenizer.info()

    def fingerprint(self) -> dict[str, object]:
        return model_fingerprint(self.config.model)

    def build_module(self, schedule: Schedule) -> PretrainingModule:
        model = initial_model(self.config.model, self.data.tokenizer, self.weights)
        self.config = replace(self.config, model=model.config)  # with its vocabulary
        settings = PretrainingSettings(
            masked_logits_only=self.config.trainer.masked_logits_only_loss,
            log_accuracy=self.config.trainer.log_train_accuracy,
            log_grad_norm=self.config.trainer.log_grad_norm,
            evaluations=self.data.evaluations,
        )
        return PretrainingModule(model, self.config.optimizer, schedule, settings)

    def schedule(self, total_steps: int) -> Schedule:
        return staged_schedule(self.config.scheduler, total_steps, self.data.stages)

    def callbacks(self, step: int) -> list[Callback]:
        settings = self.config.trainer
        eval_steps = settings.eval_steps if settings.eval_strategy == "steps" else None
        return [EnterStages(self.data.stages, eval_steps, step)]

    def check(self) -> None:
        several = len({stage.accumulation for stage in self.data.stages}) > 1
        if several and resolve_strategy(self.config).is_deepspeed:
            raise ConfigError(
                "stages and trainer.batch_warmup_tokens cannot change "
                "gradient_accumulation_steps under DeepSpeed, which fixes it: change "
                "per_device_train_batch_size, or take trainer.strategy=fsdp2"
            )

    def final_evaluation(self, run: TrainedRun) -> dict[str, float]:
        metrics = super().final_evaluation(run)
        # The best weights may be of an earlier stage, with other rotary positions.
        enter_rope(run.module, stage_at(self.data.stages, run.final_step - 1))
        return metrics

    def summary(self, run: TrainedRun) -> dict[str, object]:
        return {"unigram_loss": self.data.unigram_loss}

    def loss_levels(self) -> dict[str, float]:
        return {"unigram": self.data.unigram_loss}

    def report(self, run: TrainedRun, summary: Mapping[str, object]) -> None:
        # One process alone cannot run a model whose weights are sharded over several.
        whole = holds_whole_model(run.parts.trainer)
        examples = self.data.example_batches() if whole else []
        filled = fill_examples(run.module.model, self.data.tokenizer, examples)  # type: ignore[arg-type]
        show_losses(summary, filled, str(run.folder.path))


def staged_schedule(config: SchedulerConfig, total_steps: int, stages: Sequence[Stage]) -> Schedule:
    """``scheduler.*`` over ``total_steps``, with ``stages[i].lr`` where it is set."""
    own = tuple(
        LrStage(stage.first_step, stage.end_step, stage.lr_ratio, stage.decay, stage.final_ratio)
        for stage in stages
        if stage.lr_ratio is not None
    )
    return replace(resolve_schedule(config, total_steps), stages=own)
