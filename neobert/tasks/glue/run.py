"""What is special about a fine-tuning run: predictions, and the official score."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from neobert.config.root import Config
from neobert.optim.schedule import Schedule, resolve_schedule
from neobert.tasks.glue.classifier import build_classifier
from neobert.tasks.glue.data import GlueDataModule
from neobert.tasks.glue.metrics import check_metric
from neobert.tasks.glue.module import GlueModule, GlueSettings, Predictions, gather_predictions
from neobert.tasks.glue.predictions import write_examples, write_submission
from neobert.tasks.glue.run_report import scores_by_step, show_scores, warn_of_labels
from neobert.tasks.glue.starting_weights import find_start
from neobert.training.encoder_start import EncoderStart, of_length
from neobert.training.fine_tuning import (
    model_label,
    tried_settings,
    warn_of_low_rate,
    with_run_name,
)
from neobert.training.fit import load_best
from neobert.training.hub_model import takes_types
from neobert.training.logger import log_metrics, pretraining_metadata
from neobert.training.run import TaskRun, TrainedRun

SCORE = "eval/score"


class GlueRun(TaskRun):
    """Labelled texts in, a classifier with its predictions out."""

    score = SCORE
    data: GlueDataModule
    module: GlueModule

    def __init__(self, config: Config, resume: Path | None) -> None:
        self.config = self.requested = config
        self.start = find_start(config, resume)
        self.data = _data(config, self.start)
        self.after: dict[str, float] = {}
        self.scores: dict[int, float] = {}
        """Of every evaluation, by step."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.data.tokenizer

    @property
    def tokenizer_info(self) -> dict[str, object]:
        of_hub = self.start.kind == "hub"
        return {
            **self.data.tokenizer_info,
            "vocab_size": len(self.data.tokenizer) if of_hub else self.start.model.vocab_size,
            "weights": self.start.record,
        }

    def check(self) -> None:
        warn_of_labels(self.config.glue, self.data.num_labels)
        check_metric(self.config.trainer, self.data.task)
        warn_of_low_rate(self.config, self.start.record)
        self.config = _with_derived(self.config, self.start, self.data)

    def schedule(self, total_steps: int) -> Schedule:
        return resolve_schedule(replace(self.config.scheduler, total_steps=None), total_steps)

    def build_module(self, schedule: Schedule) -> GlueModule:
        data = self.data
        model, num_heads = build_classifier(self.config, self.start, data.task, data.num_labels)
        settings = GlueSettings(
            task=data.task,
            num_heads=num_heads,
            accumulation=self.config.trainer.gradient_accumulation_steps,
            log_accuracy=self.config.trainer.log_train_accuracy,
            log_grad_norm=self.config.trainer.log_grad_norm,
        )
        self.module = GlueModule(model, self.config.optimizer, schedule, settings)
        return self.module

    def final_evaluation(self, run: TrainedRun) -> dict[str, float]:
        """Predict all sets with the best weights, write the predictions, score them."""
        trainer = run.parts.trainer
        if self.config.trainer.load_best_model_at_end:
            load_best(run.parts, run.folder)
        self.scores = scores_by_step(run.folder.metrics_file, SCORE)
        predictions = self._predict(run)
        if self.data.has_validation:
            self.after = self.module.evaluate(predictions[: len(self.data.validation)])
            if run.final_step == trainer.global_step and run.final_step not in self.scores:
                log_metrics(trainer, self.after)
                self.scores[run.final_step] = self.after[SCORE]
        if test := self._test_metrics(predictions[len(self.data.validation) :]):
            log_metrics(trainer, test)
            self.after = self.after | test
        if trainer.is_global_zero:
            self._write(predictions, run.folder.path)
        return self.after

    def _test_metrics(self, predictions: list[Predictions]) -> dict[str, float]:
        """``eval/*_<split>`` of the test sets that have labels."""
        metrics: dict[str, float] = {}
        for (split, examples), part in zip(self.data.test.items(), predictions, strict=True):
            is_labelled = torch.from_numpy(np.isfinite(examples.labels).reshape(len(examples), -1))
            if (rows := is_labelled.all(1)).any():
                labelled = Predictions(part.scores[rows], part.labels[rows], part.rows[rows])
                of_split = self.module.test_metrics(labelled).items()
                metrics |= {f"eval/{name}_{split}": value for name, value in of_split}
        return metrics

    def _predict(self, run: TrainedRun) -> list[Predictions]:
        """Predictions of all evaluation sets, then of all test sets."""
        data, trainer = self.data, run.parts.trainer
        parts = trainer.predict(run.module, dataloaders=data.predict_dataloader()) or []
        several = len(data.validation) + len(data.test) > 1
        return [gather_predictions(part) for part in (parts if several else [parts])]  # type: ignore[arg-type]

    def _write(self, predictions: list[Predictions], folder: Path) -> None:
        """``predictions_<split>.tsv`` of every evaluation and test set."""
        data = self.data
        splits = dict(zip(data.validation, data.task.validation, strict=False))
        for (end, examples), part in zip(data.validation.items(), predictions, strict=False):
            path = folder / f"predictions_{splits[end].partition('[')[0]}.tsv"
            write_examples(data.task, examples.names, part, path, self.module.thresholds)
        tests = predictions[len(data.validation) :]
        for (split, examples), part in zip(data.test.items(), tests, strict=True):
            path = folder / f"predictions_{split}.tsv"
            write_submission(data.task, examples.names, part, path, self.module.thresholds)

    def summary(self, run: TrainedRun) -> dict[str, object]:
        config, data = self.config, self.data
        return {
            "task_name": config.glue.task_name,
            "model": model_label(config, self.start.model, self.start.record),
            "weights": self.start.record,
            "settings": tried_settings(config, data, config.glue.max_seq_length),
            "data": {
                "origin": data.origin,
                "train": len(data.train),
                "validation": {end or "": len(part) for end, part in data.validation.items()},
                "test": {name: len(part) for name, part in data.test.items()},
                "labels": list(data.task.labels),
                "num_labels": data.num_labels,
            },
            **self._thresholds(),
            "loads_best": config.trainer.load_best_model_at_end,
            "score": self.after.get(SCORE),
            "score_step": run.final_step,
            "scores_by_step": {str(step): score for step, score in self.scores.items()},
            **pretraining_metadata(config),
        }

    def _thresholds(self) -> dict[str, object]:
        """Of several labels a text, by label."""
        thresholds = self.module.thresholds
        if thresholds is None:
            return {}
        return {"thresholds": dict(zip(self.data.task.labels, thresholds.tolist(), strict=True))}

    def report(self, run: TrainedRun, summary: Mapping[str, object]) -> None:
        show_scores(summary, run.folder.path)


def _data(config: Config, start: EncoderStart) -> GlueDataModule:
    packed = start.kind != "hub"
    has_types = not packed and takes_types(config)
    return GlueDataModule(config, start.tokenizer, packed=packed, has_types=has_types)


def _with_derived(config: Config, start: EncoderStart, data: GlueDataModule) -> Config:
    """The settings with what was derived: what a checkpoint says of its model, and W&B shows."""
    label = model_label(config, start.model, start.record)
    with_name = with_run_name(config, label, config.glue.task_name)
    glue = replace(config.glue, num_labels=data.num_labels)
    model = start.model
    if start.kind != "hub":
        model = of_length(model, "glue.max_seq_length", glue.max_seq_length)
    return replace(with_name, model=model, glue=glue)
