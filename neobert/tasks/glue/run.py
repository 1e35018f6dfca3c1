"""What is special about a GLUE run: its start and classifier, predictions in GLUE's form."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from neobert.config.glue import GlueConfig
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.optim.schedule import Schedule, resolve_schedule
from neobert.tasks.glue.classifier import build_classifier
from neobert.tasks.glue.data import GlueDataModule
from neobert.tasks.glue.metrics import logged_names
from neobert.tasks.glue.module import GlueModule, Predictions, ordered_by_row
from neobert.tasks.glue.predictions import write_examples, write_submission
from neobert.tasks.glue.starting_weights import find_start
from neobert.training.encoder_start import EncoderStart
from neobert.training.fine_tuning import FineTuningRun
from neobert.training.logger import pretraining_metadata
from neobert.training.metrics_file import read_metrics, series
from neobert.training.run import TrainedRun

log = get_logger(__name__)


class GlueRun(FineTuningRun):
    """Labelled texts in, a classifier with its predictions out."""

    data_module, module_kind = GlueDataModule, GlueModule
    data: GlueDataModule
    module: GlueModule

    def find_start(self, config: Config, resume: Path | None) -> EncoderStart:
        return find_start(config, resume)

    @property
    def task_name(self) -> str:
        return self.config.glue.task_name

    @property
    def tokenizer_info(self) -> dict[str, object]:
        return {**self.start.information, "labels": list(self.data.task.labels)}

    @property
    def metric_names(self) -> list[str]:
        return logged_names(self.data.task)

    def check(self) -> None:
        num_labels = self.data.task.num_labels
        warn_of_labels(self.config.glue, num_labels)
        super().check()
        glue = replace(self.config.glue, num_labels=num_labels)
        self.config = replace(self.config, glue=glue)

    def schedule(self, total_steps: int) -> Schedule:
        return resolve_schedule(replace(self.config.scheduler, total_steps=None), total_steps)

    def build_model(self) -> tuple[nn.Module, int]:
        return build_classifier(self.config, self.start, self.data.task)

    def write(self, split: str, predictions: Sequence[Predictions], folder: Path) -> None:
        """``predictions_<split>.tsv``; of an evaluation set, ``split`` is as the task calls it."""
        task, names = self.data.task, self.data.documents[split].names
        part, thresholds = ordered_by_row(predictions), self.module.thresholds
        if split in self.data.validation_splits:
            splits = {f"validation{end}": name for name, end in task.validation.items()}
            path = folder / f"predictions_{splits[split]}.tsv"
            write_examples(task, names, part, path, thresholds)
        else:
            path = folder / f"predictions_{split}.tsv"
            write_submission(task, names, part, path, thresholds)

    def summary(self, run: TrainedRun) -> dict[str, object]:
        data, common = self.data, super().summary(run)
        sizes = {split: len(documents) for split, documents in data.documents.items()}
        evaluated = [(split, sizes[split]) for split in data.validation_splits]
        scores = dict(zip(*series(read_metrics(run.folder.metrics_file), self.score), strict=True))
        if (score := self.after.get(self.score)) is not None:
            scores.setdefault(run.final_step, score)
        return {
            **common,
            "data": {
                "origin": data.origin,
                "train": sizes["train"],
                "validation": {split.removeprefix("validation"): size for split, size in evaluated},
                "test": {split: sizes[split] for split in data.test_splits},
                "labels": list(data.task.labels),
                "num_labels": data.task.num_labels,
            },
            **self._thresholds(),
            "loads_best": self.config.trainer.load_best_model_at_end,
            "scores_by_step": {str(step): score for step, score in scores.items()},
            **pretraining_metadata(self.config),
        }

    def _thresholds(self) -> dict[str, object]:
        """Of several labels a text, by label."""
        thresholds = self.module.thresholds
        if thresholds is None:
            return {}
        return {"thresholds": dict(zip(self.data.task.labels, thresholds.tolist(), strict=True))}


def warn_of_labels(config: GlueConfig, num_labels: int) -> None:
    """``glue.num_labels`` is the task's; what the settings say is corrected, aloud."""
    if config.num_labels == num_labels:
        return
    tell = log.info if config.num_labels == GlueConfig().num_labels else log.warning
    tell("glue.num_labels: %s has %d, not %d", config.task_name, num_labels, config.num_labels)
