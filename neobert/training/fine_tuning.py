"""What runs that fine-tune an encoder share: start, predictions of all splits, report."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedTokenizerBase

from neobert.config.root import Config
from neobert.config.store import load_config_file
from neobert.config.trainer import TrainerConfig
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.model.heads import TokenClassifier
from neobert.optim.schedule import Schedule
from neobert.training.documents import DocumentDataModule
from neobert.training.encoder_start import EncoderStart, encoder_start, of_length
from neobert.training.fine_tuning_module import FineTuningModule
from neobert.training.fit import evaluation_at, load_best
from neobert.training.hub_model import HubHead, load_hub_model
from neobert.training.logger import log_metrics
from neobert.training.ranks import gather_lists
from neobert.training.run import TaskRun, TrainedRun
from neobert.training.run_folder import label_of_run
from neobert.training.summary import show_result

log = get_logger(__name__)

LARGEST_RATIO_OF_RATES = 50
"""Of the rates of pretraining and fine-tuning; 30 in the papers of NeoBERT and BERT at most."""


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
    data_module: ClassVar[type[DocumentDataModule[Any, Any]]]
    """Whose section of the settings has ``allow_random_weights``."""

    module_kind: ClassVar[type[FineTuningModule]]
    data: DocumentDataModule[Any, Any]
    module: FineTuningModule

    def __init__(self, config: Config, resume: Path | None) -> None:
        self.requested, self.after = config, dict[str, float]()
        start = self.find_start(config, resume)
        if start.kind != "hub":
            key, length = f"{self.section}.max_seq_length", self.settings.max_seq_length
            start = replace(start, model=of_length(start.model, key, length))
        self.start = start
        self.config = replace(config, model=start.model)
        self.data = self.data_module(self.config, start)

    def find_start(self, config: Config, resume: Path | None) -> EncoderStart:
        """What the run starts from."""
        return encoder_start(config, resume, self.section)

    @abstractmethod
    def build_model(self) -> tuple[nn.Module, int]:
        """The encoder with its head, and its attention heads."""

    def build_module(self, schedule: Schedule) -> FineTuningModule:
        model, num_heads = self.build_model()
        self.module = self.module_kind(model, num_heads, schedule, self.data)
        return self.module

    @property
    @abstractmethod
    def metric_names(self) -> list[str]:
        """Metrics of an evaluation, without ``eval/``."""

    @abstractmethod
    def write(self, split: str, predictions: Sequence[Any], folder: Path) -> None:
        """Write the predictions of a split. The first rank calls this, with those of all ranks."""

    @property
    def section(self) -> str:
        """Section of the task's settings."""
        return self.data_module.section

    @property
    def settings(self) -> Any:  # noqa: ANN401 - each task has its own section
        """The section of the task."""
        return getattr(self.requested, self.section)

    @property
    def label(self) -> str:
        """What reports call the model: the end of ``model.name``, else its folder."""
        if name := self.requested.model.name:
            return "/".join(Path(name).parts[-2:])
        model, source = self.start.model, self.start.record.get("folder")
        if source is None:
            return f"random-{model.hidden_size}x{model.num_hidden_layers}"
        return label_of_run(Path(str(source)))

    @property
    def task_name(self) -> str:
        """What reports call the data: its folder, or its id on the hub."""
        dataset = self.config.dataset
        return Path(dataset.path).stem if dataset.path else Path(dataset.name).name

    def check(self) -> None:
        check_best_metric(self.config.trainer, self.metric_names)
        warn_of_low_rate(self.config, self.start.record)
        wandb, rate, seed = self.config.wandb, f"{self.config.optimizer.lr:g}", self.config.seed
        tags = [*wandb.tags, self.label, self.task_name, f"lr={rate}", f"seed={seed}"]
        name = wandb.name or f"{self.label}-{self.task_name}-lr{rate}-seed{seed}"
        wandb = replace(wandb, name=name, tags=list(dict.fromkeys(tags)))
        self.config = replace(self.config, wandb=wandb)

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
        settings = self.settings
        if self.start.kind == "hub":
            length = (f"{self.section}.max_seq_length", settings.max_seq_length)
            hub_head = HubHead(auto, num_labels, names, None, settings.dropout, length)
            return load_hub_model(self.config, hub_head)
        init_std = settings.classifier_init_range
        encoder = self.start.encoder()
        model = TokenClassifier(encoder, num_labels, settings.dropout, init_std, head)
        return model, self.start.model.num_attention_heads

    def final_evaluation(self, run: TrainedRun) -> dict[str, float]:
        """Predict all splits with the best weights, score and write the predictions.

        The scores of an evaluation set are logged where training has not evaluated these weights.
        """
        data, trainer, step = self.data, run.parts.trainer, run.final_step
        if self.config.trainer.load_best_model_at_end:
            load_best(run.parts, run.folder)
        predictions = {
            split: gather_lists(trainer.predict(run.module, data.batches_of(split)) or [])
            for split in data.predicted_splits
        }
        self.after = self.module.validation_metrics(predictions)
        is_logged = step != trainer.global_step or evaluation_at(run.folder, step)
        new = {} if is_logged else dict(self.after)
        for split in data.test_splits:
            metrics = self.module.test_metrics(split, predictions[split])
            new |= {f"{name}_{split}": value for name, value in metrics.items()}
        if new:
            log_metrics(trainer, new)
        self.after |= new
        if trainer.is_global_zero:
            for split, part in predictions.items():
                self.write(split, part, run.folder.path)
        return self.after

    def report(self, run: TrainedRun, summary: Mapping[str, object]) -> None:
        task = f"{self.task_name} with {self.label}"
        show_result(run.folder.path, summary, task, run.final_step)

    def summary(self, run: TrainedRun) -> dict[str, object]:
        data = self.data
        sizes = {split: len(documents) for split, documents in data.documents.items()}
        return {
            "task_name": self.task_name,
            "model": self.label,
            "weights": self.start.record,
            "settings": self._tried_settings(),
            "data": sizes,
            "score": self.after.get(self.score or ""),
            "score_step": run.final_step,
        }

    def _tried_settings(self) -> dict[str, object]:
        """What runs of a task may differ in, for reports."""
        config, data = self.config, self.data
        return {
            "seed": config.seed,
            "lr": config.optimizer.lr,
            "batch_size": data.share.rows_per_step,
            "epochs": round(data.total_steps / data.steps_per_epoch, 3),
            "max_steps": data.total_steps,
            "weight_decay": config.optimizer.weight_decay,
            "max_seq_length": self.settings.max_seq_length,
            "optimizer": config.optimizer.name,
            "train_split": config.dataset.train_split,
        }
