"""The classifier of a run: ours on the encoder that it starts from, or one of transformers."""

from pathlib import Path

from torch import nn
from transformers import AutoModelForSequenceClassification

from neobert.config.glue import GlueConfig
from neobert.config.root import Config
from neobert.errors import ConfigError
from neobert.model.heads import ClassifierSettings, SequenceClassifier
from neobert.tasks.glue.tasks import GlueTask
from neobert.training.encoder_start import EncoderStart
from neobert.training.hub_model import HubHead, load_hub_model


def build_classifier(config: Config, start: EncoderStart, task: GlueTask) -> tuple[nn.Module, int]:
    """The classifier with the weights of ``start``, and its attention heads; all weights must fit,
    or it is an error.
    """
    if start.kind == "hub":
        return load_hub_model(config, hub_head(config.glue, task))
    glue, dense = config.glue, None
    head = ClassifierSettings(
        activation=glue.classifier_activation,
        pooling=glue.classifier_pooling,
        dropout=glue.classifier_dropout,
        init_std=glue.classifier_init_range,
    )
    if start.kind == "transfer" and start.weights is not None:
        source = start.weights.classifier(start.model)
        _refuse_other_head(source, head, start.weights.folder)
        encoder, dense = source.model, source.dense
    else:
        encoder = start.encoder()
    classifier = SequenceClassifier(encoder, task.num_labels, head)
    if dense is not None:
        classifier.dense = dense
    return classifier, start.model.num_attention_heads


def hub_head(glue: GlueConfig, task: GlueTask) -> HubHead:
    """The classifier that a model of transformers gets for ``task``."""
    return HubHead(
        AutoModelForSequenceClassification,
        task.num_labels,
        () if task.regression else task.labels,
        task.problem_type,
        glue.classifier_dropout,
        ("glue.max_seq_length", glue.max_seq_length),
    )


def _refuse_other_head(source: SequenceClassifier, head: ClassifierSettings, folder: Path) -> None:
    """The dense layer was trained for one activation and one pooling."""
    trained = source.settings
    problems = [
        f"glue.classifier_{name}={getattr(head, name)} contradicts {folder}, whose "
        f"classifier was trained with {getattr(trained, name)}: glue.transfer_from_task takes its "
        f"dense layer, so set glue.classifier_{name}={getattr(trained, name)}"
        for name in ("activation", "pooling")
        if getattr(head, name) != getattr(trained, name)
    ]
    if problems:
        raise ConfigError(*problems)
