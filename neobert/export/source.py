"""What is exported: a checkpoint (of a run), with what the run says about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerFast

from neobert.config.root import Config
from neobert.config.store import load_config_file
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.model.encoder import Encoder
from neobert.model.formats import FORMATS
from neobert.model.heads import MaskedLM, SequenceClassifier, TokenClassifier
from neobert.model.weight_files import (
    TOKENIZER_INFO,
    PretrainedError,
    has_weights,
    read_json_object,
    read_weights,
)
from neobert.training.metrics_file import Row, read_metrics
from neobert.training.run_folder import run_of_checkpoint
from neobert.training.start import Pretrained, open_weights

log = get_logger(__name__)

SETTINGS = "training_config.yaml"
"""Where an exported folder has the configuration of its run."""

Kind = Literal["masked_lm", "classifier", "token_classifier", "question_answering", "encoder"]
Model = MaskedLM | SequenceClassifier | TokenClassifier | Encoder
KINDS: dict[str, Kind] = {
    "NeoBERTLMHead": "masked_lm",
    "NeoBERTForSequenceClassification": "classifier",
    "NeoBERTForTokenClassification": "token_classifier",
    "NeoBERTForQuestionAnswering": "question_answering",
    "NeoBERT": "encoder",
    "EuroBertForMaskedLM": "masked_lm",
    "EuroBertForSequenceClassification": "classifier",
    "EuroBertForTokenClassification": "token_classifier",
    "EuroBertModel": "encoder",
    "UltrabertForSequenceClassification": "classifier",
    "UltrabertForTokenClassification": "token_classifier",
    "UltrabertForQuestionAnswering": "question_answering",
    "UltrabertModel": "encoder",
}
OF_TASK: dict[str, Kind] = {
    "glue": "classifier",
    "token_classification": "token_classifier",
    "question_answering": "question_answering",
    "contrastive": "encoder",
}


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A trained model and where it comes from."""

    folder: Path
    """Has the weights."""

    kind: Kind
    model: Model
    tokenizer: PreTrainedTokenizerFast
    """What it was trained with."""

    settings: Config | None
    """Configuration of the run; ``None`` where there is none that this package reads."""

    labels: list[str]
    """Names of a classifier's classes; empty where they have none."""

    summary: dict[str, object]
    """``summary.json`` of the run; empty if the run has not ended."""

    metrics: list[Row]
    """``metrics.csv`` of the run, empty if there is no run."""

    plot: Path | None
    """Picture of the losses."""

    @property
    def encoder(self) -> Encoder:
        """The model without its head."""
        return self.model if isinstance(self.model, Encoder) else self.model.model

    @property
    def pooling(self) -> str:
        """How an encoder's tokens become one vector."""
        return self.settings.contrastive.pooling if self.settings else "avg"

    @property
    def prompts(self) -> dict[str, str]:
        """What is put before texts of either kind, often nothing."""
        if self.settings is None:
            return {"query": "", "document": ""}
        trained = self.settings.contrastive
        return {"query": trained.query_prefix, "document": trained.document_prefix}

    @property
    def classifier_dropout(self) -> float:
        """Dropout that a classifier was trained with."""
        return self.settings.glue.classifier_dropout if self.settings else 0.0

    @property
    def step(self) -> int | None:
        """Optimizer steps that the weights have seen, if the folder's name says so."""
        return int(self.folder.name) if self.folder.name.isdigit() else None


def read_source(path: Path) -> ExportSource:
    """Load what ``path`` names: a run (its newest checkpoint), a checkpoint, a published folder."""
    weights = open_weights(path)
    folder = weights.folder
    settings = _settings(folder)
    kind = _kind(folder, settings)
    run = run_of_checkpoint(folder)
    return ExportSource(
        folder=folder,
        kind=kind,
        model=_load(weights, kind),
        tokenizer=weights.tokenizer,
        settings=settings,
        labels=_labels(folder),
        summary=read_json_object(run.summary_file) if run and run.summary_file.is_file() else {},
        metrics=read_metrics(run.metrics_file) if run and run.metrics_file.is_file() else [],
        plot=run.plot_file if run and run.plot_file.is_file() else None,
    )


def is_known(config: Mapping[str, object]) -> bool:
    """Whether a ``config.json`` is that of an architecture which this package can represent."""
    return config.get("model_type") in FORMATS and _architecture(config) in KINDS


def _load(weights: Pretrained, kind: Kind) -> Model:
    match kind:
        case "masked_lm":
            return weights.masked_lm().eval()
        case "classifier":
            return weights.classifier().eval()
        case "token_classifier":
            return weights.token_classifier().eval()
        case "question_answering":
            return weights.token_classifier(head="qa_outputs").eval()
        case "encoder":
            return weights.encoder().eval()


def _kind(folder: Path, settings: Config | None) -> Kind:
    """By the task of the run, else by the published architecture, else by the weights' names."""
    if settings is not None:
        return OF_TASK.get(settings.task, "masked_lm")
    if not (folder / "config.json").is_file():
        return _kind_by_names(set(read_weights(folder))) if has_weights(folder) else "masked_lm"
    architecture = _architecture(read_json_object(folder / "config.json"))
    if architecture not in KINDS:
        raise PretrainedError(
            f"{folder / 'config.json'}: architecture {architecture!r}; exported are "
            f"{', '.join(KINDS)}"
        )
    return KINDS[architecture]


def _architecture(config: Mapping[str, object]) -> str:
    names = config.get("architectures") or ["NeoBERTLMHead"]
    return str(names[0] if isinstance(names, list) else names)


def _kind_by_names(names: set[str]) -> Kind:
    if "classifier.weight" in names:
        return "classifier"
    headed = any(name.startswith(("model.", "decoder.")) for name in names)
    return "masked_lm" if headed else "encoder"


def _settings(folder: Path) -> Config | None:
    files = (folder / "config.yaml", folder / SETTINGS)  # of a run, of an exported folder
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        return None
    try:
        return load_config_file(file)
    except (ConfigError, ValueError) as error:
        log.warning("%s is not of this version, so the model card says less: %s", file, error)
        return None


def _labels(folder: Path) -> list[str]:
    """Names of the classes, as a checkpoint or an exported folder records them."""
    information, config = folder / TOKENIZER_INFO, folder / "config.json"
    if information.is_file():
        names = read_json_object(information).get("labels")
        return [str(name) for name in names] if isinstance(names, list) else []
    names = read_json_object(config).get("id2label") if config.is_file() else None
    if not isinstance(names, dict):
        return []
    return [str(names.get(str(number), f"LABEL_{number}")) for number in range(len(names))]
