"""What runs that fine-tune an encoder on documents share: start, predictions of all splits, report.

GLUE's runs have several starts and official scores of their own; see :mod:`neobert.tasks.glue.run`.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from neobert.config.root import Config
from neobert.training.documents import DocumentDataModule
from neobert.training.encoder_start import EncoderStart, encoder_start
from neobert.training.fit import load_best
from neobert.training.hub_model import HubHead, load_hub_model
from neobert.training.logger import log_metrics
from neobert.training.ranks import gather_lists
from neobert.training.run import TaskRun, TrainedRun
from neobert.training.summary import show_result


class FineTuningRun(TaskRun):
    """An encoder with a new head, trained and evaluated on splits of documents."""

    score = "eval/score"
    section: str
    """Section of the task's settings; its ``allow_random_weights`` allows random weights."""

    data: DocumentDataModule[Any, Any]

    def __init__(self, config: Config, resume: Path | None) -> None:
        self._requested, self.after = config, dict[str, float]()
        settings = getattr(config, self.section)
        key = f"{self.section}.allow_random_weights"
        self.start = encoder_start(config, resume, key, settings.allow_random_weights)
        self.config = replace(config, model=self.start.model)
        self.data = self.build_data(self.start)

    @abstractmethod
    def build_data(self, start: EncoderStart) -> DocumentDataModule[Any, Any]:
        """The data, tokenised with the tokenizer of the weights."""

    @abstractmethod
    def evaluate(self, split: str, predictions: Sequence[Any]) -> dict[str, float]:
        """``eval/*`` of a split from what ``predict_step`` returned on all ranks."""

    @abstractmethod
    def write(self, split: str, predictions: Sequence[Any], folder: Path) -> None:
        """Write the predictions of a split. The first rank calls this, with those of all ranks."""

    @property
    def requested(self) -> Config:
        return self._requested

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.start.tokenizer

    @property
    def tokenizer_info(self) -> dict[str, object]:
        return self.start.information

    def hub_model(self, head: HubHead) -> tuple[nn.Module, int]:
        """The model of transformers that the run starts from, and its attention heads."""
        return load_hub_model(self.config, head)

    def final_evaluation(self, run: TrainedRun) -> dict[str, float]:
        """Predict all splits with the best weights, write and score the predictions."""
        if self.config.trainer.load_best_model_at_end:
            load_best(run.parts, run.module, run.folder)
        after: dict[str, float] = {}
        for split in self.data.predicted_splits:
            batches = self.data.batches_of(split)
            predictions = gather_lists(run.parts.trainer.predict(run.module, batches) or [])
            end = "" if split == "validation" else f"_{split}"
            metrics = self.evaluate(split, predictions)
            after |= {f"{name}{end}": value for name, value in metrics.items()}
            if run.parts.trainer.is_global_zero:
                self.write(split, predictions, run.folder.path)
        log_metrics(run.parts.trainer, after)
        self.after = after
        return after

    def report(self, run: TrainedRun, summary: Mapping[str, object]) -> None:
        show_result(run.folder.path, summary, self.config.task, run.final_step)

    def summary(self, run: TrainedRun) -> dict[str, object]:
        config, data = self.config, self.data
        return {
            "weights": self.start.record,
            "settings": {
                "seed": config.seed,
                "lr": config.optimizer.lr,
                "batch_size": data.share.rows_per_step,
                "max_steps": data.total_steps,
                "optimizer": config.optimizer.name,
                "train_split": config.dataset.train_split,
            },
            "score": self.after.get(self.score or ""),
        }
