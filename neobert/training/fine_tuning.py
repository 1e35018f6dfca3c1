"""What runs that fine-tune an encoder on documents share: start, predictions of all splits, report.

GLUE's runs have several starts and official scores of their own; see :mod:`neobert.tasks.glue.run`.
The names and settings that reports compare are here for both.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from neobert.config.model import ModelConfig
from neobert.config.root import Config
from neobert.config.store import load_config_file
from neobert.config.trainer import TrainerConfig
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.model.heads import TokenClassifier
from neobert.training.data import RunDataModule
from neobert.training.documents import DocumentDataModule
from neobert.training.encoder_start import EncoderStart, encoder_start, of_length
from neobert.training.fit import load_best
from neobert.training.hub_model import HubHead, load_hub_model
from neobert.training.logger import log_metrics
from neobert.training.ranks import gather_lists
from neobert.training.run import TaskRun, TrainedRun
from neobert.training.summary import show_result

log = get_logger(__name__)

LARGEST_RATIO_OF_RATES = 50
"""Of the rates of pretraining and fine-tuning; 30 in the papers of NeoBERT and BERT at most."""


def model_label(config: Config, model: ModelConfig, record: Mapping[str, object]) -> str:
    """What a report calls the model: the end of ``model.name``, else the folder of its weights.

    ``record`` says what the run started from; ``model`` is the shape of random weights.
    """
    if config.model.name:
        return "/".join(Path(config.model.name).parts[-2:])
    source = record.get("folder")
    if source is None:
        return f"random-{model.hidden_size}x{model.num_hidden_layers}"
    folder = Path(str(source))
    run = folder.parents[1] if folder.parent.name == "checkpoints" else folder
    step = f"-{folder.name}" if folder.parent.name == "checkpoints" else ""
    return f"{run.name}{step}"


def tried_settings(config: Config, data: RunDataModule, max_length: int) -> dict[str, object]:
    """What runs of a task may differ in, for ``summary.json`` and reports."""
    return {
        "seed": config.seed,
        "lr": config.optimizer.lr,
        "batch_size": data.share.rows_per_step,
        "epochs": round(data.total_steps / data.steps_per_epoch, 3),
        "max_steps": data.total_steps,
        "weight_decay": config.optimizer.weight_decay,
        "max_seq_length": max_length,
        "optimizer": config.optimizer.name,
        "train_split": config.dataset.train_split,
    }


def with_run_name(config: Config, model: str, task: str) -> Config:
    """The settings with W&B's name and tags of the run: model, task, learning rate and seed."""
    wandb, rate, seed = config.wandb, f"{config.optimizer.lr:g}", config.seed
    tags = [*wandb.tags, model, task, f"lr={rate}", f"seed={seed}"]
    name = wandb.name or f"{model}-{task}-lr{rate}-seed{seed}"
    return replace(config, wandb=replace(wandb, name=name, tags=list(dict.fromkeys(tags))))


def check_best_metric(settings: TrainerConfig, names: Sequence[str]) -> None:
    """Refuse a ``trainer.metric_for_best_model`` that is not among the logged metrics ``names``."""
    metric = settings.metric_for_best_model
    if (metric or "score").removeprefix("eval/").removeprefix("eval_") not in names:
        raise ConfigError(
            f"trainer.metric_for_best_model={metric}: the task has {', '.join(names)}"
        )


def warn_of_low_rate(config: Config, record: Mapping[str, object]) -> None:
    """Warn of a learning rate that is tiny beside the one that the weights were trained with.

    ``record`` says what the run starts from. Large rates, as Muon takes, make large weights, which
    the usual rates of fine-tuning hardly change.
    """
    file, rate = Path(str(record.get("folder"))) / "config.yaml", config.optimizer.lr
    if "folder" not in record or not file.is_file():
        return
    try:
        trained_with = load_config_file(file).optimizer.lr
    except ConfigError:  # of another program
        return
    if rate < trained_with / LARGEST_RATIO_OF_RATES:
        log.warning(
            "optimizer.lr=%g may be too low: the weights were trained with %g; try rates between a "
            "thirtieth and a third of that",
            rate,
            trained_with,
        )


class FineTuningRun(TaskRun):
    """An encoder with a new head, trained and evaluated on splits of documents."""

    score = "eval/score"
    section: str
    """Section of the task's settings; its ``allow_random_weights`` allows random weights."""

    data: DocumentDataModule[Any, Any]

    def __init__(self, config: Config, resume: Path | None) -> None:
        self.requested, self.after = config, dict[str, float]()
        settings = getattr(config, self.section)
        start = encoder_start(config, resume, self.section)
        if start.kind != "hub":
            length = (f"{self.section}.max_seq_length", settings.max_seq_length)
            start = replace(start, model=of_length(start.model, *length))
        self.start = start
        self.config = replace(config, model=start.model)
        self.data = self.build_data(self.start)

    @abstractmethod
    def build_data(self, start: EncoderStart) -> DocumentDataModule[Any, Any]:
        """The data, tokenised with the tokenizer of the weights."""

    @property
    @abstractmethod
    def metric_names(self) -> list[str]:
        """Metrics of an evaluation, without ``eval/``."""

    @abstractmethod
    def evaluate(self, split: str, predictions: Sequence[Any]) -> dict[str, float]:
        """``eval/*`` of a split from what ``predict_step`` returned on all ranks."""

    @abstractmethod
    def write(self, split: str, predictions: Sequence[Any], folder: Path) -> None:
        """Write the predictions of a split. The first rank calls this, with those of all ranks."""

    @property
    def label(self) -> str:
        """What reports call the model."""
        return model_label(self.requested, self.start.model, self.start.record)

    @property
    def task_name(self) -> str:
        """What reports call the data: its folder, or its id on the hub."""
        dataset = self.config.dataset
        return Path(dataset.path).stem if dataset.path else Path(dataset.name).name

    def check(self) -> None:
        check_best_metric(self.config.trainer, self.metric_names)
        warn_of_low_rate(self.config, self.start.record)
        self.config = with_run_name(self.config, self.label, self.task_name)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.start.tokenizer

    @property
    def tokenizer_info(self) -> dict[str, object]:
        return self.start.information

    def model_with_head(
        self, auto: type, num_labels: int, names: Sequence[str] = (), head: str = "classifier"
    ) -> tuple[nn.Module, int]:
        """The encoder with a linear layer ``head`` for every token, and its attention heads.

        ``auto``: the class of transformers that has this head, for a run that starts from a model
        of transformers.
        """
        settings = getattr(self.config, self.section)
        if self.start.kind == "hub":
            length = (f"{self.section}.max_seq_length", settings.max_seq_length)
            hub_head = HubHead(auto, num_labels, names, None, settings.dropout, length)
            return load_hub_model(self.config, hub_head)
        init_std = settings.classifier_init_range
        encoder = self.start.encoder()
        model = TokenClassifier(encoder, num_labels, settings.dropout, init_std, head)
        return model, self.start.model.num_attention_heads

    def final_evaluation(self, run: TrainedRun) -> dict[str, float]:
        """Predict all splits with the best weights, write and score the predictions."""
        if self.config.trainer.load_best_model_at_end:
            load_best(run.parts, run.folder)
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
        task = f"{self.task_name} with {self.label}"
        show_result(run.folder.path, summary, task, run.final_step)

    def summary(self, run: TrainedRun) -> dict[str, object]:
        config, data = self.config, self.data
        length = getattr(config, self.section).max_seq_length
        sizes = {split: len(data.documents_of(split)) for split in data.predicted_splits}
        return {
            "task_name": self.task_name,
            "model": self.label,
            "weights": self.start.record,
            "settings": tried_settings(config, data, length),
            "data": {"train": len(data.train), **sizes},
            "score": self.after.get(self.score or ""),
            "score_step": run.final_step,
        }
